"""The processes that share one training, and how they divide its parameters.

A mesh has one or more replica groups. The ranks of one shard group divide the parameters among
themselves; replicas train together and replay different queries. The rows of a batch are divided
among all ranks during training, and among the ranks of a shard group during replay. :class:`Ranks`
itself is a single process, for which every operation is the identity;
:class:`engine.distributed.mesh.Mesh` is several.

A parameter is divided by flattening it and cutting it into equal chunks. If its size is no multiple
of the number of ranks, the last ranks hold less, or nothing.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from engine.replay.state import Batch, Params


@dataclass(frozen=True)
class Shard:
    """Elements ``start`` … ``stop`` - 1 of a flattened tensor: one rank's part of it."""

    shape: torch.Size
    index: int
    count: int

    @property
    def chunk(self) -> int:
        """Elements of a full shard."""
        return math.ceil(self.shape.numel() / self.count)

    @property
    def start(self) -> int:
        """The first element of this rank's shard."""
        return min(self.shape.numel(), self.index * self.chunk)

    @property
    def stop(self) -> int:
        """One past its last element."""
        return min(self.shape.numel(), (self.index + 1) * self.chunk)

    def of(self, whole: Tensor) -> Tensor:
        """This rank's shard of a tensor, as a new vector."""
        return whole.reshape(-1)[self.start : self.stop].clone()

    def padded(self, part: Tensor) -> Tensor:
        """A shard padded with zeros to :attr:`chunk` elements."""
        missing = self.chunk - part.numel()
        return torch.nn.functional.pad(part, (0, missing)) if missing else part

    def whole(self, together: Tensor) -> Tensor:
        """The tensor from the padded shards of all ranks, as a view."""
        return together[: self.shape.numel()].view(self.shape)

    def spread(self, whole: Tensor) -> Tensor:
        """A tensor as the vector of all padded shards: the inverse of :meth:`whole`."""
        missing = self.count * self.chunk - whole.numel()
        flat = whole.reshape(-1)
        return torch.nn.functional.pad(flat, (0, missing)) if missing else flat


Value = TypeVar("Value")


class Ranks:
    """A single process; the base class of several."""

    index = 0
    count = 1
    replicas = 1
    replica_index = 0

    @property
    def shard_group(self) -> "Ranks":
        """The ranks that the parameters are divided among."""
        return self

    def own_rows(self, batch: Batch) -> Batch:
        """This rank's rows of a batch; every rank has the same number."""
        return batch.share(self.index, self.count)

    def all_rows(self, scores: Tensor, rows: int) -> Tensor:
        """(query, rows, …) The scores of all ``rows``, gathered from each rank's own rows."""
        return scores

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over these ranks; the same bits on each rank."""
        return value

    def sum_over_replicas(self, grads: Params) -> Params:
        """Sum the gradients of one replica's rows over all replicas, in place."""
        return grads

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true on any of these ranks; all ranks get the same answer."""
        return flag

    def all_gather(self, value: Value) -> list[Value]:
        """The values of all these ranks, in rank order."""
        return [value]

    def barrier(self) -> None:
        """Block until all of these ranks reach this call."""
        self.any(False)

    def pack(self, tensor: Tensor) -> Any:
        """What autograd saves in place of a tensor inside :meth:`graph`."""
        # Saving the tensor with its graph would make the graph reference itself.
        return tensor.detach()

    def unpack(self, saved: Any) -> Tensor:
        """The inverse of :meth:`pack`."""
        return saved  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def graph(self) -> Iterator[None]:
        """Context for building graphs: inside, gathered parameters are not saved."""
        yield


SINGLE_RANK = Ranks()
