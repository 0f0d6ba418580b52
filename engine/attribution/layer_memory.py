"""What derivatives by layer keep in memory at a time, counted by taking them once."""

import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.replay.checkpointed_hvp import CheckpointedHVP, LayeredLoss
from engine.replay.ranks import Ranks
from engine.replay.state import Batch, Params


@dataclass(frozen=True)
class LayerMemory:
    """Bytes kept, those of parameters aside."""

    shared: int
    """The graph that keeps most, and the values between layers."""
    query: int
    """The tangents of these values along one query's direction."""


def layer_memory(
    loss: LayeredLoss, params: Params, batch: Batch, ranks: Ranks, aside: Iterable[Tensor]
) -> LayerMemory:
    """What second derivatives of a micro-batch keep, tensors that share memory with some aside."""
    kept = Kept(ranks, [*params.values(), *aside])
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
        layers = CheckpointedHVP(loss, params, batch, [params])
        between = layers.bytes_between
        layers.vjp([{name: torch.zeros_like(p) for name, p in params.items()}])
    return LayerMemory(kept.most + between, between)


class Kept:
    """Counts the bytes that graphs keep, those of some tensors aside: hooks of saved tensors."""

    def __init__(self, ranks: Ranks, aside: Iterable[Tensor]) -> None:
        self.most = 0
        self.now = 0
        self._ranks = ranks
        self._aside = {tensor.untyped_storage().data_ptr() for tensor in aside}
        self._held: Counter[int] = Counter()

    def pack(self, tensor: Tensor) -> Any:
        """What a graph is to keep of a tensor."""
        kept = self._ranks.pack(tensor)
        storage = tensor.untyped_storage()
        if not isinstance(kept, Tensor) or storage.data_ptr() in self._aside:
            return kept
        held = _Held(kept)
        weakref.finalize(held, self._let_go, storage.data_ptr(), storage.nbytes())
        self._held[storage.data_ptr()] += 1
        if self._held[storage.data_ptr()] == 1:
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
        return held

    def unpack(self, kept: Any) -> Tensor:
        """The tensor again."""
        return kept.tensor if isinstance(kept, _Held) else self._ranks.unpack(kept)

    def _let_go(self, pointer: int, size: int) -> None:
        self._held[pointer] -= 1
        if self._held[pointer] == 0:
            self.now -= size


@dataclass(frozen=True, eq=False)
class _Held:
    """A tensor as long as a graph keeps it."""

    tensor: Tensor
