"""The memory a run takes at its peak, predicted from the peaks of its own steps.

On a processor it is one number, the peak of the process; on a GPU the device's memory and the
machine's are two. Python, its libraries, the model and the data are in use when a run is planned
and stay so; a step is taken to see what it takes on top, and the rest is counted.
"""

from dataclasses import dataclass

import torch

from engine.attribution.device import memory_in_use, memory_now, peak_of, release_memory
from engine.attribution.prepared_run import PreparedRun
from engine.attribution.replay_memory import Needs, widest_batch, widest_part
from engine.cost.checkpointing_choice import Costs, Estimate
from engine.replay.derivatives import second_derivatives
from engine.replay.state import Batch, Params, TrainState
from engine.replay.train_step import TrainStep

WAITING = 3
"""Files' worth of tensors that wait for the writer while a training goes on, or are written."""
COPIES = 2
"""Of a file as it is read or written: its bytes, and the tensors copied in or out."""


@dataclass(frozen=True)
class Peak:
    """Peak bytes."""

    device: int
    """On the GPU; on a processor, of the whole process."""
    host: int | None
    """Of the process beside a GPU; None where there is none."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of one rank."""

    is_gpu: bool
    base: int
    """In use on the device, or by the process on a processor, whatever is computed."""
    host: int
    """In use by the process."""
    most: int
    """The most there has been so far, loading the model for instance."""
    gradient: int
    """What taking a step's gradient takes on top, at its peak."""
    graph: int
    """The same with its graph, and carrying queries back through that one by one."""

    def peak(self, option: Estimate, costs: Costs, needs: Needs, queries: int, tier: int) -> Peak:
        """The most that a run takes under a schedule, replaying ``queries`` at a time.

        ``tier`` is what of the trajectory may stay in host memory.
        """
        state, held = costs.state_bytes, option.held_bytes
        keeps = costs.gradient_bytes if option.schedule.keep_gradients else 0
        waiting = WAITING * (state if option.schedule.kind == "all" else keeps)
        train = 2 * state + waiting + self.gradient
        # s_T as it was trained and as the last step, taken again, gives it.
        begin = held + 2 * state + queries * needs.cotangent + self.gradient
        carried = queries * needs.cotangent + needs.held(queries)
        replay = held + needs.params + self.graph + carried
        file, scores = COPIES * state, queries * needs.scores
        # What of the trajectory stays in host memory, where the replay finds it again.
        tier = min(tier, option.kept_bytes)
        if self.is_gpu:
            device = self.base + max(train, begin if queries else 0, replay if queries else 0)
            return Peak(max(self.most, device), self.host + file + scores + tier)
        phases = [train + file]
        if queries:
            phases += [begin + file + scores, replay + scores]
        return Peak(max(self.most, self.base + tier + max(phases)), None)


def footprint_of(job: PreparedRun) -> Footprint:
    """Take the widest step's gradient and carry two queries back through it, and look."""
    device, step, start = job.device, job.trainer.step, job.start
    params = start.params
    most, batch = memory_in_use(device), widest_batch(job)
    part = widest_part(job, step.micro_batch_size)
    # Touched, as a cotangent is: what is added to it counts as the query's.
    into = {name: torch.ones_like(p) for name, p in params.items()}
    # Once unobserved, and quickly: what libraries keep from their first use on stays in use. Batch
    # norm takes no single row.
    first_use = part if start.buffers else widest_part(job, 1)
    _carry_back(step, start, first_use, into)
    gradient = peak_of(device, lambda: step.derivative(start, batch))
    graph = peak_of(device, lambda: _carry_back(step, start, part, into))
    own = sum(p.numel() * p.element_size() for p in (*params.values(), *into.values()))
    release_memory()
    cpu = torch.device("cpu")
    is_gpu = device.type != "cpu"
    base = memory_now(device) - own
    return Footprint(is_gpu, base, memory_now(cpu), most, gradient, graph)


def _carry_back(step: TrainStep, state: TrainState, part: Batch, into: Params) -> None:
    """Two queries, the first of which has to leave the graph for the second."""
    floats = {n: torch.ones_like(b) for n, b in state.buffers.items() if b.is_floating_point()}
    along = [state.params, state.params]
    with step.ranks.shard_group.graph():
        second_derivatives(step.loss, state, part, along, [into, into], [floats, floats])
