"""What a run takes of memory, counted on its own first step before anything starts.

On a processor all of it is one number, the peak of the process; on a GPU the device's memory and
the machine's are two. What is in use when a run is planned (Python, its libraries, the model, the
data) stays in use; the rest is counted tensor by tensor.
"""

from dataclasses import dataclass
from typing import Any

import torch

from engine.checkpoints.planner import Costs, Estimate
from engine.contract.config import Granularity
from engine.magic.state import Batch, Params
from engine.magic.train_step import FirstOrder, TrainStep
from engine.worker.device import give_back_memory, memory_in_use, memory_now, peak_of
from engine.worker.job import Job

WALK = 2
"""Walking back through a graph holds about as much again as the graph itself."""
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
    gradient: int
    """Taking a step's gradient, at its peak."""
    graph: int
    """The same with its graph, and carrying one query back through that."""

    @property
    def query(self) -> int:
        """Each query of a pass: its cotangent, the direction it gives, the scores so far."""
        return self.cotangent + self.params + (0 if self.is_gpu else self.scores)

    @property
    def shared(self) -> int:
        """What all queries of a pass share: the step's gradient, and the graph at its peak."""
        return self.params + self.graph

    def peak(self, option: Estimate, costs: Costs, queries: int) -> Peak:
        """The most that a run takes under a schedule, replaying ``queries`` at a time."""
        state, held = costs.state_bytes, option.held_bytes
        keeps = self.params if option.schedule.keep_gradients else 0
        waiting = WAITING * (state if option.schedule.kind == "all" else keeps)
        train = 2 * state + waiting + self.gradient
        # s_T as it was trained and as the last step, taken again, gives it.
        begin = held + 2 * state + queries * self.cotangent + self.gradient
        replay = held + self.shared + queries * self.query if queries else 0
        # A file as it is read or written: its bytes, and the tensors copied out or in.
        file = 2 * state
        if self.is_gpu:
            device = self.base + max(train, begin, replay)
            return Peak(device, self.host + file + queries * self.scores)
        return Peak(max(self.most, self.base + max(train + file, begin + file, replay)), None)


def needs_of(job: Job, granularity: Granularity) -> Needs:
    """Measure what a run needs that scores tokens or documents."""
    device, step = job.device, job.trainer.step
    is_gpu = device.type == "cuda"
    give_back_memory()
    base, host = memory_now(device), memory_now(torch.device("cpu"))
    most = 0 if is_gpu else memory_in_use(device)
    start = job.start
    params = sum(p.numel() * p.element_size() for p in start.params.values())
    floats = step.stage.zero_cotangent(start.params, start.optimizer)
    optimizer = sum(leaf.numel() * leaf.element_size() for group in floats for leaf in group)
    del floats
    weights = job.rows.input_ids.size if granularity == "token" else 2 * job.documents
    batch = widest_batch(job)
    # Touched, as a query's cotangent is: what is added to it is not counted again.
    into = {name: torch.ones_like(p) for name, p in start.params.items()}
    part = next(step.ranks.group.own_rows(batch).split(step.micro_batch_size))
    return Needs(
        is_gpu=is_gpu,
        base=base,
        host=host,
        most=most,
        params=params,
        cotangent=params + optimizer,
        scores=weights * job.trainer.dtype.itemsize,
        gradient=peak_of(device, lambda: step.gradient(start.params, batch, step.ranks.group)),
        graph=max(
            peak_of(device, lambda: _carry_back(step, start.params, part, into)),
            # Where the system tells no peaks.
            3 * params + WALK * graph_bytes(job, part),
        ),
    )


def _carry_back(step: TrainStep, params: Params, part: Batch, into: Params) -> None:
    """One query through the graph of a micro-batch."""
    with step.ranks.group.graph():
        FirstOrder(step.loss, params, part).pull_back([params], [into])


def widest_batch(job: Job) -> Batch:
    """The batch of the step with the most positions."""
    stream = job.stream("token")
    return stream.batch(int(stream.sizes().argmax()), job.trainer.dtype)


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
