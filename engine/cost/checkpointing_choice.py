"""What every kind of checkpointing costs in disk, memory and time, and which one ``auto`` chooses.

While training computes, a thread writes what was computed before; while replay computes, a thread
reads what comes next. The slower of the two determines the time.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from engine.cost.measured import FreeSpace, MeasuredSeconds, TrainingCosts, size_text
from engine.cost.query_passes import QueryPasses
from engine.replay.checkpointing import (
    CheckpointingKind,
    CheckpointingSchedule,
    checkpointing_schedule,
)
from engine.runs.config import CheckpointingName

KINDS: tuple[CheckpointingKind, ...] = ("gradients", "all", "sqrt", "log")
DISK_SHARE = 0.8
"""Share of the free disk that a trajectory may take."""
MEMORY_SHARE = 0.5
"""Share of the free memory that rebuilt train states may take."""
TIME_TOLERANCE = 1.05
"""Times within this factor count as equal; the smaller trajectory is then preferred."""
FEW_STEPS = 8
"""Up to this many steps nothing is measured, because measuring takes as long. ``auto`` then chooses
``gradients``: it repeats no training step, and with Adam takes less than twice the disk of
``sqrt``."""


@dataclass(frozen=True)
class Estimate:
    """What a run costs with one kind of checkpointing."""

    schedule: CheckpointingSchedule
    disk_bytes: int
    """The whole trajectory."""
    rank_bytes: int
    """One rank's part of the trajectory."""
    held_bytes: int
    """Train states, and gradients remembered with them, that a replay holds in memory."""
    train_seconds: float | None
    """None if no times were measured."""
    replay_seconds: float | None
    """From the end of training to the scores of all queries; None if no times were measured."""
    shortfall: str | None
    """If it does not fit: what it needs, what is available, and the remedy."""
    lacks_disk: bool

    @property
    def seconds(self) -> float:
        """Training and replay together."""
        assert self.train_seconds is not None and self.replay_seconds is not None
        return self.train_seconds + self.replay_seconds


def estimate(
    kind: CheckpointingKind, costs: TrainingCosts, passes: QueryPasses, free: FreeSpace
) -> Estimate:
    """The costs of a kind of checkpointing, and why it does not fit if it does not."""
    schedule = checkpointing_schedule(kind, costs.steps)
    rank_bytes = _rank_bytes(schedule, costs)
    disk = costs.writers * rank_bytes
    held = schedule.live_states * costs.state_bytes
    if not schedule.keep_gradients:
        held += schedule.live_states * costs.gradient_bytes
    # Three states more for a moment: s_T as trained, s_T as the repeated last step gives it, and
    # one that is read ahead.
    peak = held + 3 * costs.state_bytes
    lacks_disk, shortfall = disk > DISK_SHARE * free.disk, None
    if lacks_disk:
        shortfall = (
            f"needs {size_text(disk)} of disk, {size_text(DISK_SHARE * free.disk)} may be used: "
            "free some disk, or set another runs folder"
        )
    elif peak > MEMORY_SHARE * free.memory:
        shortfall = (
            f"needs {size_text(peak)} of memory, {size_text(MEMORY_SHARE * free.memory)} may be "
            "used: choose a trajectory.checkpointing that holds fewer states"
        )
    train = replay = None
    if costs.seconds is not None:
        train = _train_seconds(schedule, costs, costs.seconds)
        replay = _replay_seconds(schedule, costs, costs.seconds, passes)
    return Estimate(schedule, disk, rank_bytes, held, train, replay, shortfall, lacks_disk)


def measures_times(checkpointing: CheckpointingName, steps: int) -> bool:
    """Whether the choice depends on times, which must then be measured."""
    return checkpointing == "auto" and steps > FEW_STEPS


def choose(
    costs: TrainingCosts,
    passes: Mapping[CheckpointingKind, QueryPasses],
    free: FreeSpace,
    checkpointing: CheckpointingName = "auto",
) -> tuple[Estimate, str]:
    """The configured checkpointing, or the one that ``auto`` chooses, and the reason.

    ``auto`` takes the least disk among those that fit and take at most 5 % longer than the fastest
    that fits; for few steps it takes ``gradients``. If none fits, it returns the one that needs the
    least disk, and ``shortfall`` is set.

    Args:
        costs: what a step costs.
        passes: how queries are divided among passes, by kind.
        free: free disk and memory.
        checkpointing: the configured name.
    """
    if checkpointing != "auto":
        option = estimate(checkpointing, costs, passes[checkpointing], free)
        return option, option.shortfall or "set in the config"
    options = [estimate(kind, costs, passes[kind], free) for kind in KINDS]
    fitting = [option for option in options if option.shortfall is None]
    if not fitting:
        least = min(options, key=lambda option: option.disk_bytes)
        return least, f"nothing fits: {least.schedule.kind} {least.shortfall}"
    if not measures_times(checkpointing, costs.steps):
        return _choose_for_few_steps(options, fitting)
    fastest = min(option.seconds for option in fitting)
    fast = [option for option in fitting if option.seconds <= TIME_TOLERANCE * fastest]
    best = min(fast, key=lambda option: option.disk_bytes)
    reason = f"{size_text(best.disk_bytes)} on disk, and within 5 % of the fastest that fits"
    others = [_comparison(option, best) for option in fitting if option is not best]
    excluded = [f"{o.schedule.kind} {o.shortfall}" for o in options if o.shortfall is not None]
    return best, "; ".join([reason, *others, *excluded])


def _rank_bytes(schedule: CheckpointingSchedule, costs: TrainingCosts) -> int:
    gradients = costs.steps if schedule.keep_gradients else 0
    return (len(schedule.checkpoints) + 1) * costs.state_bytes + gradients * costs.gradient_bytes


def _train_seconds(
    schedule: CheckpointingSchedule, costs: TrainingCosts, seconds: MeasuredSeconds
) -> float:
    """Computing and writing overlap, except for the last state."""
    disk, size = seconds.disk, _rank_bytes(schedule, costs)
    files = len(schedule.checkpoints) + 1 + (costs.steps if schedule.keep_gradients else 0)
    last = costs.state_bytes * disk.byte + disk.file
    computing = costs.steps * seconds.step.train + size * disk.byte_work + last
    writing = size * disk.byte + files * disk.file
    return max(computing, writing)


def _replay_seconds(
    schedule: CheckpointingSchedule,
    costs: TrainingCosts,
    seconds: MeasuredSeconds,
    passes: QueryPasses,
) -> float:
    """Evaluating the queries, and every pass over the steps; computing and reading overlap."""
    step, read_byte, advances = seconds.step, seconds.disk.read_byte, schedule.advances()
    # Besides the checkpoints, s_T twice: to evaluate the queries, and to compare the repeated last
    # step with.
    read = (len(schedule.checkpoints) + 2) * costs.state_bytes
    if schedule.keep_gradients:
        read += (costs.steps + advances) * costs.gradient_bytes
        rebuild = advances * step.update + step.gradient
    else:
        # The last step of every segment needs its gradient, but no update.
        rebuild = advances * step.train + len(schedule.checkpoints) * step.gradient
    rebuild += step.update  # The repeated last step.
    computing = costs.steps * step.replay(passes.per_replica) + rebuild
    one_pass = max(computing, read * read_byte)
    first_and_last_state = 2 * costs.state_bytes * read_byte
    return passes.passes * one_pass + first_and_last_state + passes.queries * seconds.query


def _choose_for_few_steps(options: list[Estimate], fitting: list[Estimate]) -> tuple[Estimate, str]:
    """``gradients`` if it fits, else the least disk: no times were measured."""
    gradients = next(option for option in options if option.schedule.kind == "gradients")
    if gradients.shortfall is None:
        disk = size_text(gradients.disk_bytes)
        return gradients, f"{disk} on disk; with so few steps, no training step is repeated"
    least = min(fitting, key=lambda option: option.disk_bytes)
    disk = size_text(least.disk_bytes)
    return least, f"{disk} on disk, the least that fits; gradients {gradients.shortfall}"


def _comparison(option: Estimate, best: Estimate) -> str:
    time, disk = option.seconds / best.seconds, option.disk_bytes / best.disk_bytes
    slower = f"{time:.2f} times the time" if abs(time - 1) >= 0.005 else "the same time"
    return f"{option.schedule.kind} takes {slower}, {disk:.2g} times the disk"
