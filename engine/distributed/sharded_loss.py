"""A module's loss with its parameters divided among ranks and gathered as they are used."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from engine.distributed.mesh import ShardRanks
from engine.models.module_loss import ModuleLoss
from engine.replay.ranks import Shard
from engine.replay.state import Params


class ShardedLoss(ModuleLoss):
    """The loss of :class:`ModuleLoss` as a function of this rank's shards of the parameters.

    Every access of the module's code to one of its parameters gathers it, frozen ones too; the
    gradients that come back are summed over the ranks. The module itself is left with empty
    parameters: what it held is in the shards.
    """

    def __init__(
        self,
        module: nn.Module,
        ranks: ShardRanks,
        device: torch.device | str = "cpu",
        dropout_seed: int | None = None,
    ) -> None:
        """Divide ``module`` among ``ranks``; its buffers and shards go to ``device``."""
        super().__init__(module, dropout_seed)
        self._ranks = ranks
        self._shards: dict[str, Shard] = {}
        self._start: Params = {}
        self._trained: set[str] = set()
        self._divide(torch.device(device))
        self._now = self._start

    def parameters(self) -> Params:
        """This rank's shards of the trainable parameters of θ_0, a vector each."""
        return {name: shard.clone() for name, shard in self._start.items() if name in self._trained}

    def shards(self) -> dict[str, Shard]:
        """Which part of every trainable parameter this rank holds."""
        return {name: shard for name, shard in self._shards.items() if name in self._trained}

    def bound(self, params: Params, compute: Callable[[], Any]) -> Any:
        """What ``compute`` gives while the shards are ``params``."""
        self._ranks.gathered.forget()
        self._now = {**self._start, **params}
        return super().bound(params, compute)

    def _divide(self, device: torch.device) -> None:
        # Parameters first: one may have several places, and is let go of as they are left empty.
        whole = [(slot, slot.table[slot.attribute]) for slot in self._tensors]
        for slot, parameter in whole:
            if not slot.is_parameter:
                continue
            name = slot.name
            if name not in self._shards:
                shard = Shard(parameter.shape, self._ranks.index, self._ranks.count)
                self._shards[name] = shard
                self._start[name] = shard.of(parameter.detach()).to(device)
                if name in self._tensors.trained:
                    self._trained.add(name)
            _shadow(slot.module, slot.attribute, parameter, partial(self._whole, name))
        self.module.to(device)

    def _whole(self, name: str) -> Tensor:
        return self._ranks.gathered.whole(self._now[name], self._shards[name])


def _shadow(
    module: nn.Module, attribute: str, parameter: Tensor, whole: Callable[[], Tensor]
) -> None:
    """Make reading an attribute gather it; what says the module's device and type stays."""
    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {attribute: property(lambda self: whole())})
    empty = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
    module._parameters[attribute] = nn.Parameter(empty, requires_grad=False)
