"""The history of a run: per-step figures, and a snapshot of the run after any of its events.

Figures are kept in typed arrays: a run of 100,000 steps takes some tens of megabytes, and a
snapshot is found by bisection instead of by folding the events before it again.
"""

import functools
import threading
from array import array
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.runs import events
from engine.runs.events import Event, Phase, RunEvent
from engine.runs.run_folder import RunFolder
from engine.runs.run_progress import JournalFold, PhaseProgress, RunProgress, largest

Floats = NDArray[np.float64]
_RECENT = 30
"""Steps that count as recent in :attr:`Snapshot.step_seconds`."""
_FRAME = 5
"""Numbers of a frame: trained steps, done steps, cursor, first and last rebuilt step."""
_NONE = -1
_EMPTY_FRAME = (0, 0, _NONE, _NONE, _NONE)
_PER_STEP = frozenset(
    (
        *(Event.TRAIN_STEP, Event.CHECKPOINT, Event.REBUILD_STEP, Event.REPLAY_STEP),
        *(Event.RETRAIN_STEP, Event.PROBE_STEP),
    )
)
"""Kinds with an event for every step; they are not listed as messages."""


class Column:
    """Figures of one kind of event, each with the number of its event."""

    def __init__(self, *names: str) -> None:
        """Columns without rows."""
        self.numbers = array("q")
        self.values = {name: array("d") for name in names}

    def append(self, number: int, *values: float | None) -> None:
        """Add one row; NaN stands for None."""
        self.numbers.append(number)
        for column, value in zip(self.values.values(), values, strict=True):
            column.append(float("nan") if value is None else value)

    def until(self, number: int) -> int:
        """The number of rows of events up to ``number``."""
        return bisect_right(self.numbers, number)

    def get(self, name: str, stop: int, start: int = 0) -> Floats:
        """The values of some rows."""
        return np.array(self.values[name][start:stop], dtype=np.float64)


@dataclass
class ReplayPass:
    """One pass of a replay: its queries, and the time and memory of its steps."""

    attribution: str | None
    queries: list[int]
    steps: "array[int]" = field(default_factory=lambda: array("q"))
    seconds: "array[float]" = field(default_factory=lambda: array("d"))
    rebuild_seconds: float = 0.0
    """Seconds of rebuilding states in this pass."""
    memory: int = 0
    """The largest memory that a step reported, in bytes."""
    _norms: "array[float]" = field(default_factory=lambda: array("d"))

    def append(self, event: events.ReplayStepped) -> None:
        """Add one step; norms of fewer queries than the pass has count as unknown."""
        self.steps.append(event.step)
        self.seconds.append(event.seconds)
        self.memory = max(self.memory, event.memory or 0)
        count = len(self.queries)
        norms = [*event.cotangent_norms[:count], *[None] * (count - len(event.cotangent_norms))]
        self._norms.extend(float("nan") if norm is None else norm for norm in norms)

    def norms(self, place: int) -> Floats:
        """The known norms of ∂φ/∂s of the query at ``place``, in the order of steps."""
        table = np.array(self._norms, dtype=np.float64).reshape(len(self.steps), -1)
        steps, last = np.unique(np.array(self.steps)[::-1], return_index=True)
        # For a step that was replayed twice, the last values count.
        values = table[::-1, place][last] if len(steps) else np.zeros(0)
        return np.asarray(values[np.isfinite(values)], dtype=np.float64)


@dataclass(frozen=True)
class Message:
    """An event that is listed in words, with its number and time."""

    number: int
    time: float
    event: RunEvent


@dataclass(frozen=True)
class Snapshot:
    """The state of a run after one event."""

    number: int
    """The event's number."""
    time: float
    phase: str | None
    attribution: str | None
    steps: int
    """Steps of the training, T; 0 while unknown."""
    trained: int
    disk: NDArray[np.bool_]
    """(T + 1,): whether s_t is on disk."""
    held: NDArray[np.bool_]
    """(T + 1,): whether the replay holds s_t in memory."""
    cursor: int | None
    """The replay has differentiated back to this step."""
    rebuilding: tuple[int, int] | None
    """First and last step repeated since the cursor last moved."""
    curves: dict[str, tuple[Floats, Floats]]
    """Steps and values of ``loss``, ``learning_rate`` and ``gradient_norm`` (of ∂φ/∂s)."""
    step_seconds: dict[str, float]
    """Mean seconds of the latest steps of ``train``, ``rebuild`` and ``replay``."""
    memory: float | None
    peak: float | None
    done: int = 0
    """Steps done in the current phase, all passes of a replay included."""
    total: int = 0
    predicted: float | None = None
    """Peak memory as predicted before training, in bytes."""
    progress: PhaseProgress | None = None
    """The current phase in full; only in the latest snapshot."""

    def without_states(self) -> "Snapshot":
        """The same snapshot without train states on disk."""
        return replace(self, disk=np.zeros_like(self.disk))


class RunHistory:
    """All per-step figures of a run, and the data for a snapshot at any event."""

    def __init__(self) -> None:
        """Start before the first event."""
        self.progress = RunProgress()
        self.train = Column("step", "loss", "learning_rate", "seconds", "memory")
        self.rebuilds = Column("step", "seconds")
        self.replays = Column("step", "norm", "seconds", "memory")
        self.states = Column("step")
        self.passes: list[ReplayPass] = []
        self.reproduced: dict[str | None, events.Reproduced] = {}
        """By attribution."""
        self.state_bytes = 0
        """Size of a stored train state; 0 while unknown."""
        self.times = array("d")
        self.messages: list[Message] = []
        """The events other than those of single steps."""
        self._frames = array("i")
        self._frame = list(_EMPTY_FRAME)
        self._phases: list[tuple[int, str, int, str | None]] = []
        """Number of the event, phase, total, attribution."""
        self._replays_began: list[int] = []
        """Numbers of the events at which the curve of norms starts again."""
        self._held: list[tuple[int, tuple[int, ...]]] = [(_NONE, ())]
        """Steps of the states in memory from an event on."""
        self._predicted: tuple[int, float | None] = (0, None)

    @property
    def count(self) -> int:
        """The number of events added."""
        return len(self.times)

    @property
    def total_steps(self) -> int | None:
        """Steps of the training; None while unknown."""
        return self.progress.total_steps

    @property
    def step_seconds(self) -> "array[float]":
        """Seconds of every training step."""
        return self.train.values["seconds"]

    def add(self, record: Mapping[str, Any]) -> None:
        """Update with the next record of the journal."""
        number, event = self.count, self.progress.add(record)
        time = record.get("time")
        self.times.append(time if isinstance(time, int | float) else 0.0)
        if event is not None:
            if record["event"] not in _PER_STEP:
                self.messages.append(Message(number, self.times[-1], event))
            update = _UPDATES.get(type(event))
            if update is not None:
                update(self, number, event)
        phase = self.progress.phase
        if phase is not None:
            self._frame[1] = phase.done
        self._frame[0] = self.progress.steps
        self._frames.extend(self._frame)

    def by_step(self, name: str, steps: int) -> Floats:
        """``loss``, ``learning_rate`` or ``seconds`` of each training step (step,); NaN if unknown.

        For a step that was trained twice, the last values count.
        """
        values = np.full(steps, np.nan)
        at = np.array(self.train.values["step"], dtype=np.int64)
        known = (at >= 0) & (at < steps)
        values[at[known]] = np.array(self.train.values[name])[known]
        return values

    def passes_of(self, attribution: str) -> list[ReplayPass]:
        """The passes of one attribution."""
        return [each for each in self.passes if each.attribution == attribution]

    def messages_until(self, number: int) -> list[Message]:
        """The messages of events up to ``number``."""
        return self.messages[: bisect_right(self.messages, number, key=lambda each: each.number)]

    def at(self, number: int | None = None) -> Snapshot:
        """The snapshot after event ``number``; the latest if None."""
        last = self.count - 1 if number is None else max(-1, min(number, self.count - 1))
        begun = self._phases[: bisect_right(self._phases, last, key=lambda row: row[0])]
        _, phase, total, attribution = begun[-1] if begun else (0, None, 0, None)
        steps = next((row[2] for row in reversed(begun) if row[1] == Phase.TRAIN), 0)
        frame = self._frames[last * _FRAME : (last + 1) * _FRAME] if last >= 0 else _EMPTY_FRAME
        trained, done, cursor, low, high = frame
        memory, peak = self._memory(last)
        return Snapshot(
            number=last,
            time=self.times[last] if last >= 0 else 0.0,
            phase=phase,
            attribution=attribution,
            steps=steps,
            trained=trained,
            disk=self._on_disk(last, steps),
            held=self._in_memory(last, steps, cursor),
            cursor=None if cursor == _NONE or not steps else cursor,
            rebuilding=None if low == _NONE else (low, high),
            curves=self._curves(last),
            step_seconds=self._recent_seconds(last),
            memory=memory,
            peak=peak,
            done=done,
            total=total,
            predicted=self._predicted[1] if self._predicted[0] <= last else None,
            progress=self.progress.phase if last == self.count - 1 else None,
        )

    def _on_disk(self, last: int, steps: int) -> NDArray[np.bool_]:
        disk = np.zeros(steps + 1, dtype=np.bool_)
        stored = self.states.get("step", self.states.until(last)).astype(np.int64)
        disk[stored[(stored >= 0) & (stored <= steps)]] = True
        return disk

    def _in_memory(self, last: int, steps: int, cursor: int) -> NDArray[np.bool_]:
        held = np.zeros(steps + 1, dtype=np.bool_)
        _, states = self._held[bisect_right(self._held, last, key=lambda row: row[0]) - 1]
        held[[step for step in states if 0 <= step <= min(cursor, steps)]] = True
        return held

    def _curves(self, last: int) -> dict[str, tuple[Floats, Floats]]:
        trained, replayed = self.train.until(last), self.replays.until(last)
        index = bisect_right(self._replays_began, last)
        first = self.replays.until(self._replays_began[index - 1]) if index else 0
        steps = self.train.get("step", trained)
        return {
            "loss": (steps, self.train.get("loss", trained)),
            "learning_rate": (steps, self.train.get("learning_rate", trained)),
            "gradient_norm": (
                self.replays.get("step", replayed, first),
                self.replays.get("norm", replayed, first),
            ),
        }

    def _recent_seconds(self, last: int) -> dict[str, float]:
        columns = {"train": self.train, "rebuild": self.rebuilds, "replay": self.replays}
        means = {}
        for name, column in columns.items():
            stop = column.until(last)
            if stop:
                recent = column.get("seconds", stop, max(0, stop - _RECENT))
                means[name] = float(np.mean(recent))
        return means

    def _memory(self, last: int) -> tuple[float | None, float | None]:
        """The latest and the largest memory that a step reported."""
        parts = [c.get("memory", c.until(last)) for c in (self.train, self.replays)]
        used = np.concatenate([values[np.isfinite(values)] for values in parts])
        return (float(used[-1]), float(used.max())) if len(used) else (None, None)

    def _phase(self, number: int, event: events.PhaseStarted) -> None:
        self._phases.append((number, event.phase, event.total, event.attribution))
        self._clear_rebuilt(number)
        self._frame[1] = 0
        if event.phase == Phase.REPLAY:
            self._move_cursor(self.total_steps or 0)
            self._replays_began.append(number)

    def _resumed(self, number: int, event: events.Resumed) -> None:
        if event.phase == Phase.REPLAY:
            self._move_cursor(event.step)
            self._replays_began.append(number)

    def _pass(self, number: int, event: events.PassStarted) -> None:
        phase = self._phases[-1] if self._phases else (0, "", 0, None)
        self.passes.append(ReplayPass(phase[3], list(event.queries)))
        self._replays_began.append(number)
        self._clear_rebuilt(number)
        current = self.progress.phase
        if current is None or not current.is_resumed:
            self._move_cursor(self.total_steps or 0)

    def _train_step(self, number: int, event: events.TrainStepped) -> None:
        row = (event.step, event.loss, event.learning_rate, event.seconds, event.memory)
        self.train.append(number, *row)

    def _checkpoint(self, number: int, event: events.CheckpointWritten) -> None:
        if event.kind == "state":
            self.states.append(number, event.step)
            self.state_bytes = max(self.state_bytes, event.bytes)

    def _rebuilt(self, number: int, event: events.StateRebuilt) -> None:
        self.rebuilds.append(number, event.step, event.seconds)
        phase = self.progress.phase
        if phase is None or phase.phase is not Phase.REPLAY:
            return
        if self.passes:
            self.passes[-1].rebuild_seconds += event.seconds
        low, high = self._frame[3:]
        self._frame[3] = event.step if low == _NONE else min(low, event.step)
        self._frame[4] = max(high, event.step)
        if self._held[-1][1] != (held := tuple(event.held)):
            self._held.append((number, held))

    def _replay_step(self, number: int, event: events.ReplayStepped) -> None:
        norm = largest(event.cotangent_norms)
        self.replays.append(number, event.step, norm, event.seconds, event.memory)
        self._move_cursor(event.step)
        if self.passes:
            self.passes[-1].append(event)

    def _set_reproduced(self, number: int, event: events.Reproduced) -> None:
        self.reproduced[self._phases[-1][3] if self._phases else None] = event

    def _planned(self, number: int, event: events.Planned) -> None:
        if self._predicted[1] is None:
            self._predicted = (number, event.memory)

    def _ended(self, number: int, event: RunEvent) -> None:
        self._clear_rebuilt(number)

    def _move_cursor(self, step: int) -> None:
        self._frame[2:] = (step, _NONE, _NONE)

    def _clear_rebuilt(self, number: int) -> None:
        """No state is held in memory, and none is being rebuilt."""
        self._frame[3:] = (_NONE, _NONE)
        if self._held[-1][1]:
            self._held.append((number, ()))


_UPDATES: dict[type[RunEvent], Any] = {
    events.PhaseStarted: RunHistory._phase,
    events.Resumed: RunHistory._resumed,
    events.PassStarted: RunHistory._pass,
    events.TrainStepped: RunHistory._train_step,
    events.CheckpointWritten: RunHistory._checkpoint,
    events.StateRebuilt: RunHistory._rebuilt,
    events.ReplayStepped: RunHistory._replay_step,
    events.Reproduced: RunHistory._set_reproduced,
    events.Planned: RunHistory._planned,
    events.Attributed: RunHistory._ended,
    events.Finished: RunHistory._ended,
    events.Failed: RunHistory._ended,
    events.Interrupted: RunHistory._ended,
}


def read_history(run: RunFolder) -> RunHistory:
    """The history of a run; later calls read only the records added since.

    Raises:
        RunError: if the journal is damaged.
    """
    lock, fold = _cached(run.events_file)
    with lock:
        return fold.update()


@functools.lru_cache(maxsize=4)
def _cached(journal: Path) -> tuple[threading.Lock, JournalFold[RunHistory]]:
    return threading.Lock(), JournalFold(journal, RunHistory)
