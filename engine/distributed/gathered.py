"""Whole parameters from their shards, exact under two derivatives, alive no longer than used.

Gathering the parts of all ranks is linear, and summing over ranks while scattering is its
transpose. As autograd functions each is the other's derivative, so a graph over shards can be
differentiated any number of times (the communication of fully sharded data parallelism,
arXiv 2304.11277, here as operators of the mathematics).

A graph would keep every gathered parameter for its backward. While it is built inside
:meth:`Gathered.saved_as_shards` it keeps the shard instead, and gathers it again when the
backward wants it; the few used last stay whole. What is gathered again depends on the order of
use alone, which is the same on every rank: so all of them communicate in the same order.
"""

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.replay.ranks import Shard

WHOLE = 4
"""Gathered parameters that stay whole after their use: a layer's weight and bias, and the ones
of the layer before."""


class Communication(Protocol):
    """What a group of ranks has to offer."""

    def gather(self, part: Tensor) -> Tensor:
        """The parts of all ranks, one after the other."""

    def scatter_sum(self, whole: Tensor) -> Tensor:
        """This rank's part of the sum over ranks."""


@dataclass(frozen=True)
class _Whole:
    """A gathered parameter and the shard it came from."""

    shard: Tensor
    plain: Tensor
    """The shard without its graph."""
    of: Shard
    tensor: Tensor


@dataclass(frozen=True)
class _Saved:
    """What a graph keeps in place of a gathered parameter, or of a view of one."""

    shard: Tensor
    of: Shard
    size: torch.Size
    stride: tuple[int, ...]
    offset: Any


class Gathered:
    """The whole parameters of one group of ranks that are alive."""

    def __init__(self, ranks: Communication) -> None:
        """Gather through ``ranks``."""
        self._ranks = ranks
        self._used: deque[_Whole] = deque(maxlen=WHOLE)
        self._again: deque[_Whole] = deque(maxlen=WHOLE)

    def forget(self) -> None:
        """Let go of everything that is whole."""
        self._used.clear()
        self._again.clear()

    def whole(self, shard: Tensor, of: Shard) -> Tensor:
        """The parameter that ``shard`` is this rank's part of, differentiable in it."""
        return self._from(self._used, shard, of, differentiable=True)

    @contextlib.contextmanager
    def saved_as_shards(self) -> Iterator[None]:
        """Graphs built inside keep shards in place of the parameters gathered from them."""
        with torch.autograd.graph.saved_tensors_hooks(self.pack, self.unpack):
            yield

    def pack(self, tensor: Tensor) -> Any:
        """What a graph is to keep of a tensor: the tensor itself unless it was gathered."""
        whole = self._source(tensor)
        if whole is None:
            # With its graph the tensor would keep alive the graph that keeps it.
            return tensor.detach()
        place = (tensor.size(), tensor.stride(), tensor.storage_offset())
        return _Saved(whole.plain, whole.of, *place)

    def unpack(self, kept: Any) -> Tensor:
        """The tensor again."""
        if not isinstance(kept, _Saved):
            return kept  # type: ignore[no-any-return]
        whole = self._from(self._again, kept.shard, kept.of, differentiable=False)
        return whole.as_strided(kept.size, kept.stride, kept.offset)

    def _from(
        self, kept: deque[_Whole], shard: Tensor, of: Shard, *, differentiable: bool
    ) -> Tensor:
        for whole in kept:
            if whole.shard is shard:
                return whole.tensor
        if differentiable:
            tensor: Tensor = _Gather.apply(shard, of, self._ranks)  # type: ignore[no-untyped-call]
        else:
            with torch.no_grad():
                tensor = of.whole(self._ranks.gather(of.padded(shard)))
        plain = shard.detach() if shard.requires_grad else shard
        kept.append(_Whole(shard, plain, of, tensor))
        return tensor

    def _source(self, tensor: Tensor) -> _Whole | None:
        storage = tensor.untyped_storage().data_ptr()
        for whole in (*self._used, *self._again):
            if storage and whole.tensor.untyped_storage().data_ptr() == storage:
                return whole
        return None


class _Gather(torch.autograd.Function):
    """Shards to the whole parameter."""

    @staticmethod
    def forward(ctx: Any, shard: Tensor, of: Shard, ranks: Communication) -> Tensor:
        ctx.of, ctx.ranks = of, ranks
        return of.whole(ranks.gather(of.padded(shard)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _ScatterSum.apply(grads[0], ctx.of, ctx.ranks), None, None  # type: ignore[no-untyped-call]


class _ScatterSum(torch.autograd.Function):
    """A whole tensor on every rank to this rank's part of their sum."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, of: Shard, ranks: Communication) -> Tensor:
        ctx.of, ctx.ranks = of, ranks
        return ranks.scatter_sum(of.spread(whole))[: of.stop - of.start]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Gather.apply(grads[0], ctx.of, ctx.ranks), None, None  # type: ignore[no-untyped-call]
