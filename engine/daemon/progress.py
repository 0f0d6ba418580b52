"""Where a run is, folded from its journal event by event; its size does not grow with the run.

Pace comes from the ``seconds`` that steps report, never from the times of events: a clock may
be set while a run works, and an attempt may start days after the one before it.
"""

import math
from typing import Any

from engine.runs.api_schema import PhaseView
from engine.runs.events import Event, Phase

_MEMORY = 0.97
"""How much of the pace so far a training step leaves: the last 30 or so count."""


class Progress:
    """What the events so far say."""

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self.events = 0
        self.steps = 0
        self.total_steps: int | None = None
        self.memory: int | None = None
        self._phase: _PhaseProgress | None = None

    def take(self, event: dict[str, Any]) -> None:
        """Bring up to date with one event."""
        self.events += 1
        kind = event.get("event")
        memory = _whole(event, "memory")
        if memory is not None:
            self.memory = max(memory, self.memory or 0)
        if kind == Event.PHASE:
            self._begin(event)
        elif kind in (Event.STARTED, Event.FINISHED):
            self._phase = None
        elif self._phase is not None:
            self._phase.take(event)
        if kind == Event.TRAIN_STEP:
            self.steps = (_whole(event, "step") or 0) + 1
        elif kind == Event.RESUMED and event.get("phase") == Phase.TRAIN:
            self.steps = _whole(event, "step") or 0

    @property
    def is_trained(self) -> bool:
        """Whether the last step was taken."""
        return bool(self.total_steps) and self.steps == self.total_steps

    def phase(self, moving: bool) -> PhaseView | None:
        """The phase it is in; ``moving`` says whether a process works on it now."""
        return None if self._phase is None else self._phase.view(moving)

    def _begin(self, event: dict[str, Any]) -> None:
        total = _whole(event, "total") or 0
        try:
            self._phase = _PhaseProgress(Phase(event.get("phase", "")), total)
        except ValueError:
            self._phase = None
            return
        if self._phase.phase is Phase.TRAIN:
            self.total_steps = total


class _PhaseProgress:
    """One phase of the latest attempt."""

    def __init__(self, phase: Phase, total: int) -> None:
        self.phase, self.total, self.done = phase, total, 0
        self._step: int | None = None
        self._loss: float | None = None
        self._seconds: float | None = None
        self._spent = self._counted = self._rebuilding = 0.0

    def take(self, event: dict[str, Any]) -> None:
        taker = _TAKERS.get(event.get("event", ""))
        if taker is not None:
            taker(self, event)

    def view(self, moving: bool) -> PhaseView:
        remaining = None
        if moving and self._counted and self.total:
            remaining = self._spent / self._counted * max(0, self.total - self.done)
        return PhaseView(
            phase=self.phase,
            done=self.done,
            total=self.total,
            step=self._step,
            step_seconds=self._seconds,
            loss=self._loss,
            remaining_seconds=remaining,
        )

    def train_step(self, event: dict[str, Any]) -> None:
        self._step = _whole(event, "step")
        self.done = (self._step or 0) + 1
        self._loss = _finite(event, "loss")
        self._count(event, _MEMORY)

    def measured(self, event: dict[str, Any]) -> None:
        self.done = (_whole(event, "query") or 0) + 1

    def rebuild_step(self, event: dict[str, Any]) -> None:
        self._rebuilding += max(0.0, _finite(event, "seconds") or 0.0)

    def replay_step(self, event: dict[str, Any]) -> None:
        self._step = _whole(event, "step")
        self.done += 1
        # States are rebuilt in bursts: only all steps together give the pace.
        self._count(event, 1.0)
        self._spent += self._rebuilding
        self._rebuilding = 0.0

    def resumed(self, event: dict[str, Any]) -> None:
        if event.get("phase") == self.phase:
            self.done = _whole(event, "done") or 0
            # A replay names its cursor, a training the step that is next.
            self._step = _whole(event, "step") if self.phase is Phase.REPLAY else None
            if self.phase is Phase.TRAIN and self.done:
                self._step = self.done - 1

    def retrained(self, event: dict[str, Any]) -> None:
        done, seconds = _whole(event, "done") or 0, _finite(event, "seconds")
        self._step, self._loss = _whole(event, "step"), _finite(event, "loss")
        if seconds is not None and done > self.done:
            # Not every step is told: these are the seconds of all since the last one told.
            self._seconds = max(0.0, seconds) / (done - self.done)
            self._spent += max(0.0, seconds)
            self._counted += done - self.done
        self.done = done

    def _count(self, event: dict[str, Any], memory: float) -> None:
        self._seconds = _finite(event, "seconds")
        if self._seconds is not None:
            self._spent = self._spent * memory + max(0.0, self._seconds)
            self._counted = self._counted * memory + 1.0


_TAKERS = {
    Event.TRAIN_STEP: _PhaseProgress.train_step,
    Event.MEASURED: _PhaseProgress.measured,
    Event.REBUILD_STEP: _PhaseProgress.rebuild_step,
    Event.REPLAY_STEP: _PhaseProgress.replay_step,
    Event.RESUMED: _PhaseProgress.resumed,
    Event.RETRAIN_STEP: _PhaseProgress.retrained,
    Event.RETRAINED: _PhaseProgress.retrained,
    Event.PROBE_STEP: _PhaseProgress.retrained,
}


def _whole(event: dict[str, Any], key: str) -> int | None:
    value = event.get(key)
    return value if isinstance(value, int) and value >= 0 else None


def _finite(event: dict[str, Any], key: str) -> float | None:
    value = event.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
