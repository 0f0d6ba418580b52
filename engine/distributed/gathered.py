"""Gather whole parameters from shards, twice differentiable, in memory only while in use.

All-gather is linear, and reduce-scatter is its transpose. As autograd functions each is the other's
derivative, so a graph over shards can be differentiated any number of times. This is the
communication of fully sharded data parallelism (arXiv 2304.11277), as differentiable operators.

A graph normally saves every gathered parameter for its backward pass. Inside
:meth:`Gathered.saved_as_shards` it saves the shard instead, and gathers it again in the backward
pass; the last few parameters in use stay whole. What is gathered depends on the order of use alone,
which is the same on every rank, so all ranks communicate in the same order.
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
"""Gathered parameters that stay whole after use: weight and bias of the last two layers."""


class Communication(Protocol):
    """The collective operations of a shard group."""

    def gather(self, part: Tensor) -> Tensor:
        """All-gather: the padded shards of all ranks, concatenated."""

    def scatter_sum(self, whole: Tensor) -> Tensor:
        """Reduce-scatter: this rank's part of the sum over ranks."""


@dataclass(frozen=True)
class _Whole:
    """A gathered parameter and its shard."""

    shard: Tensor
    plain: Tensor
    """The shard without its graph."""
    of: Shard
    tensor: Tensor


@dataclass(frozen=True)
class _Saved:
    """What a graph saves in place of a gathered parameter or a view of one."""

    shard: Tensor
    of: Shard
    size: torch.Size
    stride: tuple[int, ...]
    offset: Any


class Gathered:
    """The gathered parameters of one shard group that are in memory."""

    def __init__(self, ranks: Communication) -> None:
        """Gather through ``ranks``."""
        self._ranks = ranks
        self._used: deque[_Whole] = deque(maxlen=WHOLE)
        self._again: deque[_Whole] = deque(maxlen=WHOLE)

    def forget(self) -> None:
        """Free all gathered parameters."""
        self._used.clear()
        self._again.clear()

    def whole(self, shard: Tensor, of: Shard) -> Tensor:
        """The whole parameter of this rank's ``shard``, differentiable in the shard."""
        return self._from(self._used, shard, of, differentiable=True)

    @contextlib.contextmanager
    def saved_as_shards(self) -> Iterator[None]:
        """Inside, graphs save shards in place of gathered parameters."""
        with torch.autograd.graph.saved_tensors_hooks(self.pack, self.unpack):
            yield

    def pack(self, tensor: Tensor) -> Any:
        """What a graph saves of a tensor: the tensor itself, unless it was gathered."""
        whole = self._source(tensor)
        if whole is None:
            # Saving the tensor with its graph would make the graph reference itself.
            return tensor.detach()
        view = (tensor.size(), tensor.stride(), tensor.storage_offset())
        return _Saved(whole.plain, whole.of, *view)

    def unpack(self, saved: Any) -> Tensor:
        """The inverse of :meth:`pack`."""
        if not isinstance(saved, _Saved):
            return saved  # type: ignore[no-any-return]
        whole = self._from(self._again, saved.shard, saved.of, differentiable=False)
        return whole.as_strided(saved.size, saved.stride, saved.offset)

    def _from(
        self, cached: deque[_Whole], shard: Tensor, of: Shard, *, differentiable: bool
    ) -> Tensor:
        for whole in cached:
            if whole.shard is shard:
                return whole.tensor
        if differentiable:
            tensor: Tensor = _Gather.apply(shard, of, self._ranks)  # type: ignore[no-untyped-call]
        else:
            with torch.no_grad():
                tensor = of.whole(self._ranks.gather(of.padded(shard)))
        plain = shard.detach() if shard.requires_grad else shard
        cached.append(_Whole(shard, plain, of, tensor))
        return tensor

    def _source(self, tensor: Tensor) -> _Whole | None:
        storage = tensor.untyped_storage().data_ptr()
        for whole in (*self._used, *self._again):
            if storage and whole.tensor.untyped_storage().data_ptr() == storage:
                return whole
        return None


class _Gather(torch.autograd.Function):
    """All-gather of shards to the whole parameter."""

    @staticmethod
    def forward(ctx: Any, shard: Tensor, of: Shard, ranks: Communication) -> Tensor:
        ctx.of, ctx.ranks = of, ranks
        return of.whole(ranks.gather(of.padded(shard)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _ScatterSum.apply(grads[0], ctx.of, ctx.ranks), None, None  # type: ignore[no-untyped-call]


class _ScatterSum(torch.autograd.Function):
    """Reduce-scatter of whole tensors to this rank's shard of their sum."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, of: Shard, ranks: Communication) -> Tensor:
        ctx.of, ctx.ranks = of, ranks
        return ranks.scatter_sum(of.spread(whole))[: of.stop - of.start]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Gather.apply(grads[0], ctx.of, ctx.ranks), None, None  # type: ignore[no-untyped-call]
