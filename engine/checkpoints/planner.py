"""Choosing a schedule from what it costs in disk, memory and time, and saying why."""

from dataclasses import dataclass

from engine.magic.schedule import Schedule, ScheduleKind, make_schedule

KINDS: tuple[ScheduleKind, ...] = ("gradients", "all", "sqrt", "log")
DISK_SHARE = 0.8
"""Part of the free disk that a trajectory may take."""
MEMORY_SHARE = 0.5
"""Part of the free memory that rebuilt train states may take."""
ABOUT = 1.05
"""Times within this factor count as equal: disk is what is scarce."""
READ_SPEED_UP = 2.0
"""Reading a file and checking it takes this much less than writing it durably."""
FIRST_QUERY, NEXT_QUERY = 3.1, 2.3
"""Time of replaying a step in units of training it: for one query, and for each more."""


@dataclass(frozen=True)
class Costs:
    """What one step of a training costs, measured, and how many there are."""

    steps: int
    state_bytes: int
    gradient_bytes: int
    step_seconds: float
    update_seconds: float
    bytes_per_second: float
    file_seconds: float
    """What making one file durable takes besides its bytes."""
    queries: int
    passes: int


@dataclass(frozen=True)
class Room:
    """Bytes free on the disk of the runs and in memory."""

    disk: int
    memory: int


@dataclass(frozen=True)
class Estimate:
    """What a run under one schedule would take."""

    schedule: Schedule
    disk_bytes: int
    memory_bytes: int
    train_seconds: float
    replay_seconds: float
    why_not: str | None
    lacks_disk: bool
    """What it needs more of than there is, and what to do, if it does not fit."""

    @property
    def seconds(self) -> float:
        """Training and replay together."""
        return self.train_seconds + self.replay_seconds


def estimate(kind: ScheduleKind, costs: Costs, room: Room) -> Estimate:
    """What a schedule takes, and why it does not fit if it doesn't."""
    schedule = make_schedule(kind, costs.steps)
    kept_states = len(schedule.checkpoints) + 1
    kept_gradients = costs.steps if schedule.keep_gradients else 0
    disk = kept_states * costs.state_bytes + kept_gradients * costs.gradient_bytes
    # Two more for a moment: s_T as it was trained and as the last step, taken again, gives it;
    # and one that is read ahead.
    held = (schedule.live_states + 3) * costs.state_bytes
    if not schedule.keep_gradients:
        held += schedule.live_states * costs.gradient_bytes
    writing = disk / costs.bytes_per_second + (kept_states + kept_gradients) * costs.file_seconds
    advances = schedule.advances()
    reading = len(schedule.checkpoints) * costs.state_bytes
    if schedule.keep_gradients:
        reading += (costs.steps + advances) * costs.gradient_bytes
        rebuild = advances * costs.update_seconds
    else:
        # The last step of every segment takes its gradient without advancing.
        rebuild = (advances + len(schedule.checkpoints)) * costs.step_seconds
    queries = max(1.0, costs.queries / max(1, costs.passes))
    per_step = costs.step_seconds * (FIRST_QUERY + NEXT_QUERY * (queries - 1))
    # What comes next is read while the step before is computed.
    computing = costs.steps * per_step + rebuild
    replay = costs.passes * max(computing, reading / (READ_SPEED_UP * costs.bytes_per_second))
    train = costs.steps * costs.step_seconds + writing
    why_not = None
    if disk > DISK_SHARE * room.disk:
        why_not = (
            f"needs {_size(disk)} of disk, {_size(DISK_SHARE * room.disk)} may be used: free some "
            "disk, or keep runs elsewhere"
        )
    elif held > MEMORY_SHARE * room.memory:
        why_not = (
            f"needs {_size(held)} of memory, {_size(MEMORY_SHARE * room.memory)} may be used: "
            "choose a schedule that holds less"
        )
    return Estimate(schedule, disk, held, train, replay, why_not, disk > DISK_SHARE * room.disk)


def choose(costs: Costs, room: Room) -> tuple[Estimate, str]:
    """The schedule of least disk among those that fit and are about as quick as any, and why.

    If none fits, the one that needs the least disk is returned; its ``why_not`` says so.
    """
    options = [estimate(kind, costs, room) for kind in KINDS]
    fitting = [option for option in options if option.why_not is None]
    if not fitting:
        least = min(options, key=lambda option: option.disk_bytes)
        return least, f"nothing fits: {least.schedule.kind} {least.why_not}"
    quickest = min(option.seconds for option in fitting)
    about = [option for option in fitting if option.seconds <= ABOUT * quickest]
    best = min(about, key=lambda option: option.disk_bytes)
    reason = f"{_size(best.disk_bytes)} on disk, and about as quick as any that fits"
    refused = [f"{o.schedule.kind} {o.why_not}" for o in options if o.why_not is not None]
    others = [_compared(option, best) for option in fitting if option is not best]
    return best, "; ".join([reason, *others, *refused])


def _compared(option: Estimate, best: Estimate) -> str:
    time, disk = option.seconds / best.seconds, option.disk_bytes / best.disk_bytes
    slower = f"{time:.2f} times the time" if abs(time - 1) >= 0.005 else "the same time"
    return f"{option.schedule.kind} takes {slower}, {disk:.2g} times the disk"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
