"""A module's loss with sharded parameters, which are gathered when used."""

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

    Reading a parameter of the module gathers it, frozen ones too; its gradient is summed over the
    ranks. The module itself keeps empty parameters.
    """

    def __init__(
        self,
        module: nn.Module,
        ranks: ShardRanks,
        device: torch.device | str = "cpu",
        dropout_seed: int | None = None,
    ) -> None:
        """Shard ``module`` over ``ranks``; its buffers and shards are moved to ``device``."""
        super().__init__(module, dropout_seed)
        self._ranks = ranks
        self._shards: dict[str, Shard] = {}
        self._start: Params = {}
        self._trained: set[str] = set()
        self._divide(torch.device(device))
        self._now = self._start

    def parameters(self) -> Params:
        """Copies of this rank's shards of the trainable parameters, a vector each: θ_0."""
        return {name: shard.clone() for name, shard in self._start.items() if name in self._trained}

    def shards(self) -> dict[str, Shard]:
        """This rank's shard of every trainable parameter."""
        return {name: shard for name, shard in self._shards.items() if name in self._trained}

    def bound(self, params: Params, compute: Callable[[], Any]) -> Any:
        """The result of ``compute``, called while the shards are ``params``."""
        self._ranks.gathered.forget()
        self._now = {**self._start, **params}
        return super().bound(params, compute)

    def _divide(self, device: torch.device) -> None:
        # Listed first: a parameter may have several slots, which are emptied one by one.
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
    """Make reading an attribute gather it; an empty parameter keeps device and dtype."""
    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {attribute: property(lambda self: whole())})
    empty = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
    module._parameters[attribute] = nn.Parameter(empty, requires_grad=False)
