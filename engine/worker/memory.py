"""What a replay needs of memory, counted tensor by tensor on the widest step."""

from dataclasses import dataclass
from typing import Any

import torch

from engine.contract.config import Granularity
from engine.magic.state import Batch
from engine.magic.train_step import FirstOrder
from engine.worker.job import Job

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

    @property
    def query(self) -> int:
        """Each query of a pass: its cotangent, the direction it gives, the scores so far."""
        return self.cotangent + self.params + self.scores

    @property
    def shared(self) -> int:
        """What all queries of a pass share.

        The step's gradient, that of a micro-batch, its products with a query and the one before,
        and the graph with what walking back through it takes.
        """
        return 4 * self.params + WALK * self.kept

    @property
    def least(self) -> int:
        """Below this not even one query can be carried back."""
        return self.cotangent + 2 * self.params + self.kept


def needs_of(job: Job, granularity: Granularity) -> Needs:
    """What a replay needs that scores tokens or documents."""
    step, start = job.trainer.step, job.start
    params = sum(p.numel() * p.element_size() for p in start.params.values())
    floats = step.stage.zero_cotangent(start.params, start.optimizer)
    optimizer = sum(leaf.numel() * leaf.element_size() for group in floats for leaf in group)
    weights = job.rows.input_ids.size if granularity == "token" else 2 * job.documents
    kept = graph_bytes(job, widest_part(job, step.micro_batch_size))
    return Needs(params, params + optimizer, weights * job.trainer.dtype.itemsize, kept)


def widest_batch(job: Job) -> Batch:
    """The batch of the step with the most positions."""
    stream = job.stream("token")
    return stream.batch(int(stream.sizes().argmax()), job.trainer.dtype)


def widest_part(job: Job, rows: int | None) -> Batch:
    """Its first micro-batch of ``rows`` rows, of a replaying rank's share."""
    return next(job.trainer.ranks.group.own_rows(widest_batch(job)).split(rows))


def graph_bytes(job: Job, part: Batch) -> int:
    """Bytes that the graph of a micro-batch's gradient keeps, besides parameters."""
    ranks, loss, params = job.trainer.ranks.group, job.model.loss, job.start.params
    own = {p.untyped_storage().data_ptr() for p in (*params.values(), *loss.parameters())}
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> Any:
        kept = ranks.keep(tensor)
        storage = tensor.untyped_storage()
        if kept is tensor and storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return kept

    with torch.autograd.graph.saved_tensors_hooks(note, ranks.restore):
        FirstOrder(job.trainer.loss, params, part)
    # The output layer keeps the tokens' probabilities where it may.
    cache = part.weights.numel() * job.model.vocabulary * job.trainer.dtype.itemsize
    used = cache if loss.plain_head and cache <= loss.cache_bytes else 0
    return sum(seen.values()) + used
