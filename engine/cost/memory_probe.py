"""Measure what differentiating one step takes of memory.

The graph of a gradient is counted tensor by tensor, with hooks on the tensors that autograd saves.
Whole phases are measured by the peak of the process or of the device.
"""

import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.cost.peak_memory import Footprint
from engine.cost.process_memory import added_peak, current_memory, peak_memory, release_memory
from engine.replay.checkpointed_hvp import CheckpointedHVP, LayeredLoss
from engine.replay.derivatives import GradientGraph, second_derivatives
from engine.replay.ranks import Ranks
from engine.replay.state import Batch, Params, TrainState
from engine.replay.train_step import TrainStep


@dataclass(frozen=True)
class GraphBytes:
    """Bytes that the graph of a micro-batch's gradient saves, without the parameters."""

    shared: int
    """What all queries share: the graph, or with activation checkpointing the largest layer's
    graph and the activations between layers."""
    query: int
    """With activation checkpointing: the tangents of those activations, for each query."""


def graph_bytes(
    step: TrainStep, state: TrainState, part: Batch, frozen: Iterable[Tensor], head_bytes: int
) -> GraphBytes:
    """Count what the graph of a micro-batch's gradient saves.

    Args:
        step: the step function.
        state: s_0.
        part: the micro-batch.
        frozen: parameters that are not trained, which are not counted.
        head_bytes: what the output layer caches beside the graph.
    """
    params, group = state.params, step.ranks.shard_group
    uncounted = [*params.values(), *frozen]
    if isinstance(step.loss, LayeredLoss):
        counted = layered_graph_bytes(step.loss, params, part, group, uncounted)
        # The head's cache exists only while no layer's graph does.
        shared = max(counted.shared, counted.query + head_bytes)
        return GraphBytes(shared, counted.query)
    pointers = {tensor.untyped_storage().data_ptr() for tensor in uncounted}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Any:
        saved, storage = group.pack(tensor), tensor.untyped_storage()
        if isinstance(saved, Tensor) and storage.data_ptr() not in pointers:
            sizes[storage.data_ptr()] = storage.nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, group.unpack):
        GradientGraph(step.loss, params, part, state.buffers)
    return GraphBytes(sum(sizes.values()) + head_bytes, 0)


def layered_graph_bytes(
    loss: LayeredLoss, params: Params, batch: Batch, ranks: Ranks, uncounted: Iterable[Tensor]
) -> GraphBytes:
    """Count what a checkpointed HVP saves; the parameters belong to ``uncounted``."""
    counter = SavedTensorCounter(ranks, uncounted)
    with torch.autograd.graph.saved_tensors_hooks(counter.pack, counter.unpack):
        hvp = CheckpointedHVP(loss, params, batch, [params])
        between = hvp.bytes_between
        hvp.vjp([{name: torch.zeros_like(p) for name, p in params.items()}])
    return GraphBytes(counter.peak + between, between)


class SavedTensorCounter:
    """Hooks on saved tensors that count the bytes alive at a time, except ``uncounted``."""

    def __init__(self, ranks: Ranks, uncounted: Iterable[Tensor]) -> None:
        self.peak = 0
        self.now = 0
        self._ranks = ranks
        self._uncounted = {tensor.untyped_storage().data_ptr() for tensor in uncounted}
        self._saved: Counter[int] = Counter()

    def pack(self, tensor: Tensor) -> Any:
        """What autograd saves in place of a tensor."""
        packed = self._ranks.pack(tensor)
        storage = tensor.untyped_storage()
        if not isinstance(packed, Tensor) or storage.data_ptr() in self._uncounted:
            return packed
        saved = _Saved(packed)
        weakref.finalize(saved, self._release, storage.data_ptr(), storage.nbytes())
        self._saved[storage.data_ptr()] += 1
        if self._saved[storage.data_ptr()] == 1:
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
        return saved

    def unpack(self, saved: Any) -> Tensor:
        """The tensor that was packed."""
        return saved.tensor if isinstance(saved, _Saved) else self._ranks.unpack(saved)

    def _release(self, pointer: int, size: int) -> None:
        self._saved[pointer] -= 1
        if self._saved[pointer] == 0:
            self.now -= size


@dataclass(frozen=True, eq=False)
class _Saved:
    """A saved tensor; freed with the graph that saved it."""

    tensor: Tensor


def measure_footprint(
    step: TrainStep, state: TrainState, batch: Batch, part: Batch, first: Batch
) -> Footprint:
    """Measure the memory of the process, and what the widest step adds at its peak.

    Args:
        step: the step function.
        state: s_0.
        batch: the widest batch.
        part: its first micro-batch.
        first: a smaller batch that is differentiated first, unmeasured: memory that libraries
            allocate on first use stays in use.
    """
    params = state.params
    device = next(iter(params.values())).device
    loading_peak = peak_memory(device)
    # Ones rather than zeros: the memory must be touched, as a cotangent's is.
    into = {name: torch.ones_like(p) for name, p in params.items()}
    _replay_two(step, state, first, into)
    gradient = added_peak(device, lambda: step.derivative(state, batch))
    replay = added_peak(device, lambda: _replay_two(step, state, part, into))
    own = sum(p.numel() * p.element_size() for p in (*params.values(), *into.values()))
    release_memory()
    base, host = current_memory(device) - own, current_memory(torch.device("cpu"))
    return Footprint(device.type != "cpu", base, host, loading_peak, gradient, replay)


def _replay_two(step: TrainStep, state: TrainState, part: Batch, into: Params) -> None:
    """Differentiate a micro-batch's graph for two queries; the first keeps it for the second."""
    floats = {n: torch.ones_like(b) for n, b in state.buffers.items() if b.is_floating_point()}
    directions = [state.params, state.params]
    with step.ranks.shard_group.graph():
        second_derivatives(step.loss, state, part, directions, [into, into], [floats, floats])
