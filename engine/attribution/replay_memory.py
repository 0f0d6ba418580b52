"""What a replay needs of memory, counted tensor by tensor on the widest step."""

from dataclasses import dataclass
from typing import Any

import torch

from engine.attribution.layer_memory import LayerMemory, layer_memory
from engine.attribution.prepared_run import PreparedRun
from engine.replay.checkpointed_hvp import LayeredLoss
from engine.replay.derivatives import GradientGraph, needs_all_directions
from engine.replay.state import Batch
from engine.runs.config import Granularity

WALK = 2
"""Walking back through a graph holds about as much again as the graph itself."""


@dataclass(frozen=True)
class Needs:
    """Bytes of one rank."""

    params: int
    cotangent: int
    """Of a query: parameters and optimizer state."""
    scores: int
    """Of a query's data weights, in the machine's memory."""
    kept: int
    """What the graph of a micro-batch's gradient keeps."""
    tangents: int
    """What each query adds to that where layers are computed again."""
    all_directions: bool
    """Whether the directions of all queries are held at a time, and not of one."""

    def queries(self, count: int) -> int:
        """The queries of a pass: their cotangents, directions held, and scores so far."""
        return count * (self.cotangent + self.scores + self.tangents) + self.held(count)

    def held(self, count: int) -> int:
        """The directions that so many queries hold."""
        return self.params * (count if self.all_directions else 1)

    def fitting(self, room: float) -> int:
        """The most queries that take no more than ``room`` bytes, and at least one."""
        once = 0 if self.all_directions else self.params
        return max(1, int((room - once) // (self.queries(1) - once)))

    @property
    def shared(self) -> int:
        """What all queries of a pass share.

        The step's gradient, that of a micro-batch, its products with a query, and the graph with
        what walking back through it takes.
        """
        return 3 * self.params + WALK * self.kept

    @property
    def least(self) -> int:
        """Below this not even one query can be carried back."""
        return self.cotangent + 2 * self.params + self.kept + self.tangents


def needs_of(job: PreparedRun, granularity: Granularity) -> Needs:
    """What a replay needs that scores tokens or documents."""
    step, start = job.trainer.step, job.start
    params = sum(p.numel() * p.element_size() for p in start.params.values())
    floats = step.stage.zero_cotangent(start.params, start.optimizer)
    optimizer = sum(leaf.numel() * leaf.element_size() for group in floats for leaf in group)
    buffers = sum(b.numel() * b.element_size() for b in start.buffers.values())
    weights = job.rows.document_ids.size if granularity == "token" else 2 * job.documents
    graph = graph_bytes(job, widest_part(job, step.micro_batch_size))
    scores = weights * job.trainer.dtype.itemsize
    parts = len(step.parts(widest_batch(job)))
    held = needs_all_directions(step.loss, parts)
    cotangent = params + optimizer + buffers
    return Needs(params, cotangent, scores, graph.shared, graph.query, held)


def widest_batch(job: PreparedRun) -> Batch:
    """The batch of the step with the most positions."""
    stream = job.stream("token" if job.config.has_tokens else "document")
    return stream.batch(int(stream.sizes().argmax()), job.trainer.dtype)


def widest_part(job: PreparedRun, rows: int | None) -> Batch:
    """Its first micro-batch of ``rows`` rows, of a replaying rank's share."""
    return next(job.trainer.ranks.shard_group.own_rows(widest_batch(job)).split(rows))


def graph_bytes(job: PreparedRun, part: Batch) -> LayerMemory:
    """What the graph of a micro-batch's gradient keeps at a time, besides parameters."""
    ranks, loss, start = job.trainer.ranks.shard_group, job.model.loss, job.start
    cut, params = job.trainer.step.loss, start.params
    # The output layer keeps the tokens' probabilities where it may.
    cached = job.model.cached_bytes(part.weights.numel(), job.trainer.dtype.itemsize)
    if isinstance(cut, LayeredLoss):
        found = layer_memory(cut, params, part, ranks, loss.parameters())
        # They are alive while no layer's graph is.
        return LayerMemory(max(found.shared, found.query + cached), found.query)
    own = {p.untyped_storage().data_ptr() for p in (*params.values(), *loss.parameters())}
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> Any:
        kept = ranks.pack(tensor)
        storage = tensor.untyped_storage()
        if isinstance(kept, torch.Tensor) and storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return kept

    with torch.autograd.graph.saved_tensors_hooks(note, ranks.unpack):
        GradientGraph(job.trainer.loss, params, part, start.buffers)
    return LayerMemory(sum(seen.values()) + cached, 0)
