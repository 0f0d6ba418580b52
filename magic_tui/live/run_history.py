"""A run's journal as a film: what was so after any of its events.

Kept in columns, so that a run of 100,000 steps takes some tens of megabytes and any moment of it
is found without going through all that came before.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.runs.events import Event, Phase

Floats = NDArray[np.float64]
_RECENT = 30
_STORY = frozenset(
    (
        *(Event.STARTED, Event.RESUMED, Event.WARNING, Event.PLANNED, Event.PHASE, Event.MEASURED),
        *(Event.PASS, Event.REPRODUCED, Event.ATTRIBUTED, Event.FINISHED, Event.FAILED),
        *(Event.INTERRUPTED, Event.RETRAINED, Event.SUBMITTED),
    )
)
_ENDINGS = frozenset((Event.ATTRIBUTED, Event.FINISHED, Event.FAILED, Event.INTERRUPTED))


class Column:
    """Figures of one kind of event, each with the event's number."""

    def __init__(self, *names: str) -> None:
        """Empty columns."""
        self.seqs = array("q")
        self.values = {name: array("d") for name in names}

    def add(self, seq: int, event: dict[str, Any]) -> None:
        """Add one event; what it does not say is not a number."""
        self.seqs.append(seq)
        for name, column in self.values.items():
            value = event.get(name)
            column.append(float(value) if isinstance(value, int | float) else float("nan"))

    def until(self, seq: int) -> int:
        """How many of them had come by event ``seq``."""
        return bisect_right(self.seqs, seq)

    def get(self, name: str, stop: int, start: int = 0) -> Floats:
        """One figure of some events."""
        return np.array(self.values[name][start:stop], dtype=np.float64)


@dataclass(frozen=True)
class Snapshot:
    """What was so after one event."""

    seq: int
    time: float
    phase: str | None
    attribution: str | None
    steps: int
    """Steps of the training, T; 0 while that is not known."""
    trained: int
    disk: NDArray[np.bool_]
    """(T + 1,): whether s_t is on disk."""
    held: NDArray[np.bool_]
    """(T + 1,): whether the replay holds s_t in memory."""
    cursor: int | None
    """The replay has carried the cotangent to this step."""
    rebuilding: tuple[int, int] | None
    """First and last step taken again since the cursor last moved."""
    curves: dict[str, tuple[Floats, Floats]]
    """Steps and values of ``loss``, ``learning_rate`` and ``cotangent``."""
    seconds: dict[str, float]
    """Recent seconds a step of ``train``, ``rebuild`` and ``replay``."""
    memory: float | None
    peak: float | None
    done: int = 0
    """Steps of the training or the replay that are behind; of all passes of a replay."""
    total: int = 0
    predicted: float | None = None
    """Peak memory as it was predicted before the training began."""

    def without_states(self) -> "Snapshot":
        """The same with no train state left on disk."""
        return replace(self, disk=np.zeros_like(self.disk))


@dataclass
class RunHistory:
    """Everything the events so far said that a screen shows."""

    train: Column = field(
        default_factory=lambda: Column("step", "loss", "learning_rate", "seconds", "memory")
    )
    states: Column = field(default_factory=lambda: Column("step"))
    rebuilds: Column = field(default_factory=lambda: Column("step", "seconds"))
    replays: Column = field(default_factory=lambda: Column("step", "norm", "seconds", "memory"))
    times: "array[float]" = field(default_factory=lambda: array("d"))
    story: list[dict[str, Any]] = field(default_factory=list)
    """The events that are told in words."""
    _held: list[tuple[int, ...]] = field(default_factory=list)
    _phases: list[tuple[int, str, int, str | None]] = field(default_factory=list)
    _turns: list[tuple[int, int | None]] = field(default_factory=list)
    """Where a replay began or went on: event, and the step it stood at if it went on."""
    _resumes: list[tuple[int, int]] = field(default_factory=list)
    _replayed: list[tuple[int, int]] = field(default_factory=list)
    """Where a replay went on: event, and how many steps were done by then."""
    _endings: list[int] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many events there are."""
        return len(self.times)

    def take(self, events: Iterable[dict[str, Any]]) -> None:
        """Add the next events."""
        for event in events:
            self._add(event)

    def at(self, seq: int | None = None) -> Snapshot:
        """The moment after event ``seq``; the latest if left out."""
        last = self.count - 1 if seq is None else max(-1, min(seq, self.count - 1))
        phase = self._last(self._phases, last)
        steps = self._steps(last)
        cursor, rebuilding, held = self._replay(last, steps)
        disk = np.zeros(steps + 1, dtype=np.bool_)
        kept = self.states.get("step", self.states.until(last)).astype(np.int64)
        disk[kept[(kept >= 0) & (kept <= steps)]] = True
        return Snapshot(
            last,
            self.times[last] if last >= 0 else 0.0,
            phase[1] if phase else None,
            phase[3] if phase else None,
            steps,
            self._trained(last),
            disk,
            held,
            cursor,
            rebuilding,
            self._curves(last),
            self._seconds(last),
            *self._memory(last),
            *self._done(last),
            self._predicted(last),
        )

    def story_until(self, seq: int) -> list[dict[str, Any]]:
        """The events told in words up to one."""
        return [event for event in self.story if event["seq"] <= seq]

    def _add(self, event: dict[str, Any]) -> None:
        seq, kind = self.count, event.get("event")
        self.times.append(float(event.get("time") or 0.0))
        if kind in _STORY:
            self.story.append({**event, "seq": seq})
        if kind == Event.TRAIN_STEP:
            self.train.add(seq, event)
        elif kind == Event.CHECKPOINT and event.get("kind") == "state":
            self.states.add(seq, event)
        elif kind == Event.REBUILD_STEP:
            self.rebuilds.add(seq, event)
            held = tuple(event.get("held") or ())
            same = self._held and self._held[-1] == held
            self._held.append(self._held[-1] if same else held)
        elif kind == Event.REPLAY_STEP:
            norms = [norm for norm in event.get("cotangent_norms") or () if norm is not None]
            self.replays.add(seq, {**event, "norm": max(norms, default=float("nan"))})
        elif kind == Event.PHASE:
            total = int(event.get("total") or 0)
            self._phases.append((seq, str(event.get("phase")), total, event.get("attribution")))
            self._turns.append((seq, None))
        elif kind == Event.PASS:
            self._turns.append((seq, None))
        elif kind == Event.RESUMED:
            self._resumed(seq, event)
        elif kind in _ENDINGS:
            self._endings.append(seq)

    def _resumed(self, seq: int, event: dict[str, Any]) -> None:
        step = int(event.get("step") or 0)
        if event.get("phase") == Phase.TRAIN:
            self._resumes.append((seq, step))
        elif event.get("phase") == Phase.REPLAY:
            self._turns.append((seq, step))
            self._replayed.append((seq, int(event.get("done") or 0)))

    def _predicted(self, last: int) -> float | None:
        plans = (e for e in self.story if e["event"] == Event.PLANNED and e["seq"] <= last)
        memory = next(plans, {}).get("memory")
        return float(memory) if isinstance(memory, int | float) else None

    def _last(self, rows: list[Any], seq: int) -> Any:
        place = bisect_right([row[0] for row in rows], seq)
        return rows[place - 1] if place else None

    def _steps(self, last: int) -> int:
        trainings = [row for row in self._phases if row[0] <= last and row[1] == Phase.TRAIN]
        return trainings[-1][2] if trainings else 0

    def _trained(self, last: int) -> int:
        stop = self.train.until(last)
        trained = int(self.train.values["step"][stop - 1]) + 1 if stop else 0
        resumed = self._last(self._resumes, last)
        if resumed and (not stop or resumed[0] > self.train.seqs[stop - 1]):
            trained = int(resumed[1])
        return trained

    def _done(self, last: int) -> tuple[int, int]:
        """How much of the training or the replay that goes on is done, and of how much."""
        began, name, total, _ = self._last(self._phases, last) or (0, "", 0, None)
        if name == Phase.TRAIN:
            return self._trained(last), total
        if name != Phase.REPLAY:
            return 0, total
        resumed = self._last(self._replayed, last)
        since, done = resumed if resumed and resumed[0] > began else (began, 0)
        return done + self.replays.until(last) - self.replays.until(since), total

    def _replay(
        self, last: int, steps: int
    ) -> tuple[int | None, tuple[int, int] | None, NDArray[np.bool_]]:
        """The cursor, what is being rebuilt for its next move, and what is held in memory."""
        held = np.zeros(steps + 1, dtype=np.bool_)
        phases = [row for row in self._phases if row[0] <= last]
        replaying = next((row for row in reversed(phases) if row[1] == Phase.REPLAY), None)
        if replaying is None or not steps:
            return None, None, held
        turn = self._last(self._turns, last)
        began, cursor = max(turn[0], replaying[0]), turn[1] if turn[1] is not None else steps
        stop = self.replays.until(last)
        moved = self.replays.seqs[stop - 1] if stop else -1
        if moved > began:
            cursor, began = int(self.replays.values["step"][stop - 1]), moved
        rebuilt = self.rebuilds.until(last)
        first = self.rebuilds.until(began)
        taken = self.rebuilds.get("step", rebuilt, first)
        latest = max(began, self.rebuilds.seqs[rebuilt - 1] if rebuilt else -1)
        if bisect_right(self._endings, last) > bisect_right(self._endings, latest):
            return cursor, None, held
        if phases[-1][1] == Phase.REPLAY and rebuilt:
            known = [step for step in self._held[rebuilt - 1] if step <= cursor and step <= steps]
            held[known] = True
        span = (int(taken.min()), int(taken.max())) if len(taken) else None
        return cursor, span, held

    def _curves(self, last: int) -> dict[str, tuple[Floats, Floats]]:
        trained, replayed = self.train.until(last), self.replays.until(last)
        turn = self._last(self._turns, last)
        first = self.replays.until(turn[0]) if turn else 0
        steps = self.train.get("step", trained)
        return {
            "loss": (steps, self.train.get("loss", trained)),
            "learning_rate": (steps, self.train.get("learning_rate", trained)),
            "cotangent": (
                self.replays.get("step", replayed, first),
                self.replays.get("norm", replayed, first),
            ),
        }

    def _seconds(self, last: int) -> dict[str, float]:
        found = {}
        for name, column in (
            ("train", self.train), ("rebuild", self.rebuilds), ("replay", self.replays),
        ):  # fmt: skip
            stop = column.until(last)
            recent = column.get("seconds", stop, max(0, stop - _RECENT))
            if len(recent):
                found[name] = float(np.mean(recent))
        return found

    def _memory(self, last: int) -> tuple[float | None, float | None]:
        used = [c.get("memory", c.until(last)) for c in (self.train, self.replays)]
        both = np.concatenate([values[np.isfinite(values)] for values in used])
        return (float(both[-1]), float(both.max())) if len(both) else (None, None)
