"""The processes that share one training, as the mathematics sees them.

Parameters are divided among the ranks of a *group*; a mesh of several groups trains together and
replays different queries in each. The rows of a batch are divided too: among all ranks while
training, and among those of a group while replaying. :class:`Ranks` itself is one process that
shares with nobody, for which all of this is the identity;
:class:`engine.distributed.mesh.Mesh` is several.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import Tensor

from engine.replay.state import Batch, Params

Value = TypeVar("Value")


class Ranks:
    """One process alone."""

    index = 0
    count = 1
    groups = 1
    group_index = 0

    @property
    def group(self) -> "Ranks":
        """The ranks that the parameters are divided among."""
        return self

    def own_rows(self, batch: Batch) -> Batch:
        """This rank's share of a batch, of the same size on every rank."""
        return batch.share(self.index, self.count)

    def all_rows(self, scores: Tensor, rows: int) -> Tensor:
        """The scores of all ``rows``, (query, rows, …), from those of this rank's share."""
        return scores

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over these ranks, the same bits on each."""
        return value

    def sum_groups(self, grads: Params) -> Params:
        """Gradients that hold one group's rows, summed over the groups, in place."""
        return grads

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true on any of these ranks: what all of them act upon."""
        return flag

    def everyone(self, value: Value) -> list[Value]:
        """The values of all these ranks, in order."""
        return [value]

    def wait(self) -> None:
        """Until all of these ranks have come this far."""
        self.any(False)

    def keep(self, tensor: Tensor) -> Any:
        """What a graph keeps of a tensor inside :meth:`graph`."""
        # A graph that kept the tensor with its own graph would keep itself alive.
        return tensor.detach()

    def restore(self, kept: Any) -> Tensor:
        """The inverse of :meth:`keep`."""
        return kept  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def graph(self) -> Iterator[None]:
        """Encloses the building of graphs, which must not keep gathered parameters alive."""
        yield


ALONE = Ranks()
