"""What a run takes of memory, counted on its own first step before anything starts.

On a processor all of it is one number, the peak of the process; on a GPU the device's memory and
the machine's are two. What is in use when a run is planned (Python, its libraries, the model, the
data) stays in use; the rest is counted tensor by tensor.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from engine.checkpoints.planner import Costs, Estimate
from engine.contract.config import Granularity
from engine.magic.linear_cross_entropy import CHUNK_ELEMENTS
from engine.magic.state import Batch, Params
from engine.magic.train_step import FirstOrder
from engine.worker.device import memory_in_use
from engine.worker.job import Job

WAITING = 3
"""Files' worth of tensors that wait for the writer while a training goes on, or are written."""


@dataclass(frozen=True)
class Peak:
    """Peak bytes."""

    device: int
    """On the GPU; on a processor, of the whole process."""
    host: int | None
    """Of the process beside a GPU; None where there is none."""


@dataclass(frozen=True)
class Needs:
    """Bytes of what a run holds, those of one rank."""

    is_gpu: bool
    base: int
    """In use on the device before the run starts."""
    host: int
    """In use by this process."""
    most: int
    """The most that either has been so far, where they are one."""
    params: int
    cotangent: int
    """Of a query: parameters and optimizer state."""
    scores: int
    """Of a query's data weights."""
    loss: int
    """What the loss of a micro-batch keeps for its gradient."""
    graph: int
    """What that gradient keeps to be differentiated again."""

    @property
    def query(self) -> int:
        """Each query of a pass: its cotangent, the direction it gives, the scores so far."""
        return self.cotangent + self.params + (0 if self.is_gpu else self.scores)

    @property
    def shared(self) -> int:
        """What all queries of a pass share.

        Two gradients, one of them alive to be differentiated, a product and the one before it, and
        the graph.
        """
        return 4 * self.params + self.graph

    def peak(self, option: Estimate, costs: Costs, queries: int) -> Peak:
        """The most that a run takes under a schedule, replaying ``queries`` at a time."""
        state, held = costs.state_bytes, option.held_bytes
        keeps = self.params if option.schedule.keep_gradients else 0
        waiting = WAITING * (state if option.schedule.kind == "all" else keeps)
        train = 2 * state + self.params + waiting + self.loss
        # s_T as it was trained and as the last step, taken again, gives it.
        begin = held + 2 * state + queries * self.cotangent + self.params + self.loss
        replay = held + self.shared + queries * self.query if queries else 0
        # A file as it is read or written: its bytes, and the tensors copied out or in.
        file = 2 * state
        if self.is_gpu:
            device = self.base + max(train, begin, replay)
            return Peak(device, self.host + file + queries * self.scores)
        return Peak(max(self.most, self.base + max(train + file, begin + file, replay)), None)


def needs_of(job: Job, granularity: Granularity) -> Needs:
    """Measure what a run needs that scores tokens or documents."""
    is_gpu, start = job.device.type == "cuda", job.start
    host = psutil.Process().memory_info().rss
    params = sum(p.numel() * p.element_size() for p in start.params.values())
    floats = job.trainer.step.stage.zero_cotangent(start.params, start.optimizer)
    optimizer = sum(leaf.numel() * leaf.element_size() for group in floats for leaf in group)
    part = widest_part(job, job.trainer.step.micro_batch_size)
    weights = job.rows.input_ids.size if granularity == "token" else 2 * job.documents
    return Needs(
        is_gpu=is_gpu,
        base=torch.cuda.memory_allocated(job.device) if is_gpu else host,
        host=host,
        most=0 if is_gpu else memory_in_use(job.device),
        params=params,
        cotangent=params + optimizer,
        scores=weights * job.trainer.dtype.itemsize,
        loss=_kept_bytes(job, part, job.trainer.loss),
        graph=graph_bytes(job, part),
    )


def widest_part(job: Job, rows: int | None) -> Batch:
    """The first micro-batch of ``rows`` rows of the widest step, of a replaying rank's share."""
    stream = job.stream("token")
    batch = stream.batch(int(stream.sizes().argmax()), job.trainer.dtype)
    return next(job.trainer.ranks.group.own_rows(batch).split(rows))


def graph_bytes(job: Job, part: Batch) -> int:
    """Bytes that the graph of a micro-batch's gradient keeps."""
    return _kept_bytes(job, part, lambda params, of: FirstOrder(job.trainer.loss, params, of))


def _kept_bytes(job: Job, part: Batch, build: Callable[[Params, Batch], Any]) -> int:
    """Bytes that ``build`` keeps for later derivatives, besides parameters."""
    ranks, loss = job.trainer.ranks.group, job.model.loss
    params = {name: p.requires_grad_() for name, p in job.start.params.items()}
    own = {p.untyped_storage().data_ptr() for p in (*params.values(), *loss.parameters())}
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> Any:
        kept = ranks.keep(tensor)
        storage = tensor.untyped_storage()
        if kept is tensor and storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return kept

    with torch.autograd.graph.saved_tensors_hooks(note, ranks.restore):
        build(params, part)
    # The output layer keeps the tokens' probabilities where it may, else works chunk by chunk.
    cache = part.weights.numel() * job.model.vocabulary * job.trainer.dtype.itemsize
    if cache > loss.cache_bytes:
        cache = 2 * CHUNK_ELEMENTS * job.trainer.dtype.itemsize
    return sum(seen.values()) + (cache if loss.plain_head else 0)
