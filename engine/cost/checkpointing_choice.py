"""Choosing a schedule from what it costs in disk, memory and time, and saying why.

A training computes while what it keeps is written behind it; a replay computes while what it asks
for next is read. Every term below is measured on the training that is about to start.
"""

from dataclasses import dataclass

from engine.replay.checkpointing import (
    CheckpointingKind,
    CheckpointingSchedule,
    checkpointing_schedule,
)
from engine.runs.config import CheckpointingName

KINDS: tuple[CheckpointingKind, ...] = ("gradients", "all", "sqrt", "log")
DISK_SHARE = 0.8
"""Part of the free disk that a trajectory may take."""
MEMORY_SHARE = 0.5
"""Part of the free memory that rebuilt train states may take."""
ABOUT = 1.05
"""Times within this factor count as equal: disk is what is scarce."""
FEW_STEPS = 8
"""Measuring times and memory takes as long as so many steps. ``gradients`` has none of them to take
again, and with Adam needs less than twice the disk of ``sqrt``."""


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of the parts of a step, means over the steps of a training."""

    gradient: float = 1.0
    """Its batch, the loss, the gradient and what is reported of them."""
    update: float = 0.1
    """The optimizer alone."""
    graph: float = 1.3
    """The graph of the gradient, which all queries of a pass share."""
    query: float = 2.0
    """Carrying one query back through that graph."""
    stage: float = 0.1
    """The optimizer's VJP, what all queries share of it where it is taken for all at once."""
    stage_query: float = 0.1
    """What it takes for each query."""

    @property
    def train(self) -> float:
        """A step of training."""
        return self.gradient + self.update

    def replay(self, queries: float) -> float:
        """A step carried back for some queries, its state and gradient being there."""
        return self.graph + self.stage + queries * (self.query + self.stage_query)


@dataclass(frozen=True)
class DiskSeconds:
    """Seconds that files take."""

    byte: float = 1e-9
    """Writing a byte durably, with its checksum."""
    byte_work: float = 0.0
    """What of it delays a training that goes on meanwhile: it uses the processor itself."""
    read_byte: float = 5e-10
    """Reading a byte and checking it."""
    file: float = 1e-3
    """Making a file durable besides its bytes."""


@dataclass(frozen=True)
class Asked:
    """What is asked of the trajectory."""

    passes: int = 1
    per_group: int = 1
    """Queries that one group of ranks carries back in a pass."""
    measure_seconds: float = 0.0
    """The losses of all queries before and after, and their gradients."""


@dataclass(frozen=True)
class Costs:
    """What a training and its replay cost, and how many steps there are."""

    steps: int
    state_bytes: int
    gradient_bytes: int
    writers: int
    """Ranks that each write files of these sizes."""
    step: StepSeconds
    disk: DiskSeconds
    asked: Asked
    asked_again: Asked | None = None
    """The same of schedules that train again in every pass, if it differs."""


@dataclass(frozen=True)
class Room:
    """Bytes free on the disk of the runs and in memory."""

    disk: int
    memory: int


@dataclass(frozen=True)
class Estimate:
    """What a run under one schedule would take."""

    schedule: CheckpointingSchedule
    disk_bytes: int
    kept_bytes: int
    """What each rank keeps of it."""
    held_bytes: int
    """Train states that the replay holds, with the gradients it remembers."""
    train_seconds: float
    replay_seconds: float
    """From the end of training to the scores."""
    why_not: str | None
    """What it needs more of than there is, and what to do, if it does not fit."""
    lacks_disk: bool

    @property
    def seconds(self) -> float:
        """Training and replay together."""
        return self.train_seconds + self.replay_seconds


def estimate(kind: CheckpointingKind, costs: Costs, room: Room) -> Estimate:
    """What a schedule takes, and why it does not fit if it doesn't."""
    schedule = checkpointing_schedule(kind, costs.steps)
    kept = _kept_bytes(schedule, costs)
    disk = costs.writers * kept
    held = schedule.live_states * costs.state_bytes
    if not schedule.keep_gradients:
        held += schedule.live_states * costs.gradient_bytes
    # Two more for a moment: s_T as it was trained and as the last step, taken again, gives it;
    # and one that is read ahead.
    most = held + 3 * costs.state_bytes
    lacks_disk, why_not = disk > DISK_SHARE * room.disk, None
    if lacks_disk:
        why_not = (
            f"needs {size_text(disk)} of disk, {size_text(DISK_SHARE * room.disk)} may be used: "
            "free some disk, or keep runs elsewhere"
        )
    elif most > MEMORY_SHARE * room.memory:
        why_not = (
            f"needs {size_text(most)} of memory, {size_text(MEMORY_SHARE * room.memory)} may be "
            "used: choose a schedule that holds less"
        )
    train, replay = _train_seconds(schedule, costs), _replay_seconds(schedule, costs)
    return Estimate(schedule, disk, kept, held, train, replay, why_not, lacks_disk)


def _kept_bytes(schedule: CheckpointingSchedule, costs: Costs) -> int:
    gradients = costs.steps if schedule.keep_gradients else 0
    return (len(schedule.checkpoints) + 1) * costs.state_bytes + gradients * costs.gradient_bytes


def _train_seconds(schedule: CheckpointingSchedule, costs: Costs) -> float:
    """Computing and writing go on together; the last state is written when all is computed."""
    disk, size = costs.disk, _kept_bytes(schedule, costs)
    files = len(schedule.checkpoints) + 1 + (costs.steps if schedule.keep_gradients else 0)
    last = costs.state_bytes * disk.byte + disk.file
    computing = costs.steps * costs.step.train + size * disk.byte_work + last
    writing = size * disk.byte + files * disk.file
    return max(computing, writing)


def _replay_seconds(schedule: CheckpointingSchedule, costs: Costs) -> float:
    """Measuring the queries, and every pass over the steps."""
    step, asked, advances = costs.step, costs.asked, schedule.advances()
    if not schedule.keep_gradients:
        asked = costs.asked_again or asked
    # Besides the checkpoints s_T: to measure at, and to compare the last step with.
    read = (len(schedule.checkpoints) + 2) * costs.state_bytes
    if schedule.keep_gradients:
        read += (costs.steps + advances) * costs.gradient_bytes
        rebuild = advances * step.update + step.gradient
    else:
        # The last step of every segment takes its gradient without advancing.
        rebuild = advances * step.train + len(schedule.checkpoints) * step.gradient
    rebuild += step.update  # The last step is taken again.
    computing = costs.steps * step.replay(asked.per_group) + rebuild
    a_pass = max(computing, read * costs.disk.read_byte)
    both_ends = 2 * costs.state_bytes * costs.disk.read_byte
    return asked.passes * a_pass + both_ends + asked.measure_seconds


def wants_times(asked_for: CheckpointingName, steps: int) -> bool:
    """Whether a schedule is chosen by times, which have to be measured."""
    return asked_for == "auto" and steps > FEW_STEPS


def choose(costs: Costs, room: Room, asked_for: CheckpointingName = "auto") -> tuple[Estimate, str]:
    """The schedule asked for, and why not if it does not fit.

    ``auto`` is the schedule of least disk among those that fit and are about as quick as any, and
    ``gradients`` for few steps. If none fits, the one that needs the least disk is returned; its
    ``why_not`` says so.
    """
    if asked_for != "auto":
        option = estimate(asked_for, costs, room)
        return option, option.why_not or "asked for"
    options = [estimate(kind, costs, room) for kind in KINDS]
    fitting = [option for option in options if option.why_not is None]
    if not fitting:
        least = min(options, key=lambda option: option.disk_bytes)
        return least, f"nothing fits: {least.schedule.kind} {least.why_not}"
    if not wants_times(asked_for, costs.steps):
        return _of_few_steps(options, fitting)
    quickest = min(option.seconds for option in fitting)
    about = [option for option in fitting if option.seconds <= ABOUT * quickest]
    best = min(about, key=lambda option: option.disk_bytes)
    reason = f"{size_text(best.disk_bytes)} on disk, and about as quick as any that fits"
    refused = [f"{o.schedule.kind} {o.why_not}" for o in options if o.why_not is not None]
    others = [_compared(option, best) for option in fitting if option is not best]
    return best, "; ".join([reason, *others, *refused])


def _of_few_steps(options: list[Estimate], fitting: list[Estimate]) -> tuple[Estimate, str]:
    """``gradients``, else what takes the least disk: nobody has measured any times."""
    wanted = next(option for option in options if option.schedule.kind == "gradients")
    if wanted.why_not is None:
        kept = size_text(wanted.disk_bytes)
        return wanted, f"{kept} on disk; of so few steps none has to be taken again"
    least = min(fitting, key=lambda option: option.disk_bytes)
    kept = size_text(least.disk_bytes)
    return least, f"{kept} on disk, the least there is; gradients {wanted.why_not}"


def _compared(option: Estimate, best: Estimate) -> str:
    time, disk = option.seconds / best.seconds, option.disk_bytes / best.disk_bytes
    slower = f"{time:.2f} times the time" if abs(time - 1) >= 0.005 else "the same time"
    return f"{option.schedule.kind} takes {slower}, {disk:.2g} times the disk"


def size_text(count: float) -> str:
    """A number of bytes in words."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
