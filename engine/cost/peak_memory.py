"""The peak memory of a run, from measurements before it starts.

On a CPU the peak is that of the process. On a GPU there are two: the device's and the process's.
"""

from dataclasses import dataclass

from engine.cost.checkpointing_choice import Estimate
from engine.cost.measured import TrainingCosts
from engine.cost.query_passes import ReplayMemory

QUEUED_FILES = 3
"""Files whose tensors are held while training runs: queued for the writer or being written."""
FILE_COPIES = 2
"""Copies of a file while it is read or written: its bytes and its tensors."""


@dataclass(frozen=True)
class PeakMemory:
    """Peak bytes of one rank."""

    device: int
    """Of the GPU; on a CPU, of the process."""
    host: int | None
    """Of the process beside a GPU; None on a CPU."""


@dataclass(frozen=True)
class Footprint:
    """Measured bytes of one rank, before training."""

    is_gpu: bool
    base: int
    """In use on the device before training: on a CPU, Python, libraries, model and data."""
    host: int
    """In use by the process before training."""
    loading_peak: int
    """Peak so far, for example while the model was loaded."""
    gradient: int
    """Added at the peak of a step's gradient."""
    replay: int
    """Added at the peak of differentiating a step's graph for two queries in turn."""

    def peak(
        self,
        option: Estimate,
        costs: TrainingCosts,
        memory: ReplayMemory,
        queries: int,
        cache_bytes: int,
        *,
        trains: bool = True,
    ) -> PeakMemory:
        """The predicted peak of a run.

        Args:
            option: the checkpointing.
            costs: sizes of states and gradients.
            memory: what the replay takes.
            queries: queries that one replica replays together; 0 replays nothing.
            cache_bytes: budget of the host cache.
            trains: whether the process trains before it replays.
        """
        state, held = costs.state_bytes, option.held_bytes
        gradients = costs.gradient_bytes if option.schedule.keep_gradients else 0
        queued = QUEUED_FILES * (state if option.schedule.kind == "all" else gradients)
        train = 2 * state + queued + self.gradient
        cotangents = queries * memory.cotangent
        # Two states: s_T as it was trained, and as the repeated last step gives it.
        begin = held + 2 * state + cotangents + self.gradient
        replay = held + memory.params + self.replay + cotangents + memory.directions(queries)
        file, scores = FILE_COPIES * state, queries * memory.scores
        cache = min(cache_bytes, option.rank_bytes)
        if self.is_gpu:
            phases = [train] * trains + [begin, replay] * (queries > 0)
            device = self.base + max(phases, default=0)
            return PeakMemory(max(self.loading_peak, device), self.host + file + scores + cache)
        phases = [train + file] * trains
        phases += [begin + file + scores, replay + scores] * (queries > 0)
        return PeakMemory(max(self.loading_peak, self.base + cache + max(phases, default=0)), None)
