"""The progress of a run: the one fold of its events, of a size that does not grow with the run.

The engine, ``magic status``, ``watch``, ``run`` and the Live screen all read phase, pace and time
left from here. The pace follows from the ``seconds`` that steps report, never from the times of
events: clocks can be set, and an attempt may start days after the previous one.
"""

import contextlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from engine.runs import events
from engine.runs.events import Phase, RunEvent
from engine.runs.journal import JournalReader

_DECAY = 0.97
"""Weight that a training step loses with each later one: about the last 30 set the pace."""
_READ_BYTES = 1 << 18
_SUCCEEDED = (events.Attributed, events.Finished)
_ENDINGS = (*_SUCCEEDED, events.Failed, events.Interrupted)


@dataclass
class PhaseProgress:
    """One phase: its length, what is done, and the latest figures."""

    phase: Phase
    total: int
    """Steps, or queries; 0 if they are not counted."""
    attribution: str | None = None
    done: int = 0
    step: int | None = None
    """The last trained step, or the replay cursor."""
    is_resumed: bool = False
    """Whether it was resumed and no step has been taken since."""
    rebuilding: int | None = None
    """The step that the replay repeated last, until the cursor moves."""
    loss: float | None = None
    first_loss: float | None = None
    learning_rate: float | None = None
    step_seconds: float | None = None
    gradient_norm: float | None = None
    """The largest norm of ∂φ/∂s of the pass at the replay cursor."""
    pass_number: int = 0
    passes: int = 1
    query: events.QueryMeasured | None = None
    subset: str | None = None
    """The subset that is left out of the retraining."""
    is_reproduced: bool = False
    """Whether the last training step was reproduced bit for bit."""
    began: float = 0.0
    now: float = 0.0
    """Time of its latest event."""
    seconds_before: float = 0.0
    """Seconds that earlier attempts spent on it."""
    _spent: float = field(default=0.0, repr=False)
    _counted: float = field(default=0.0, repr=False)
    _rebuild_seconds: float = field(default=0.0, repr=False)

    @property
    def key(self) -> tuple[Phase, str | None]:
        """Identifies the phase across attempts."""
        return self.phase, self.attribution

    @property
    def elapsed(self) -> float:
        """Seconds from its first to its latest event, earlier attempts included."""
        return self.seconds_before + max(0.0, self.now - self.began)

    @property
    def remaining_seconds(self) -> float | None:
        """Estimated seconds to its end: mean seconds per step times the steps left."""
        if not self._counted or not self.total:
            return None
        return self._spent / self._counted * max(0, self.total - self.done)

    def view(self, moving: bool) -> dict[str, Any]:
        """The fields of the API's ``PhaseView``; no time left unless a process works on it."""
        return {
            "phase": self.phase,
            "done": self.done,
            "total": self.total,
            "step": self.step,
            "step_seconds": self.step_seconds,
            "loss": self.loss,
            "remaining_seconds": self.remaining_seconds if moving else None,
        }

    def add(self, event: RunEvent, time: float) -> None:
        """Update with an event of this phase."""
        self.now = time
        update = _UPDATES.get(type(event))
        if update is not None:
            update(self, event)

    def continue_from(self, earlier: "PhaseProgress") -> None:
        """Add the work of an earlier attempt at the same phase."""
        self.seconds_before = earlier.elapsed
        self.first_loss, self.loss = earlier.first_loss, earlier.loss
        self.is_reproduced = earlier.is_reproduced

    def _resumed(self, event: events.Resumed) -> None:
        if event.phase != self.phase:
            return
        self.done, self.is_resumed = event.done, True
        if self.phase is Phase.REPLAY:
            self.step = event.step
        elif self.phase is Phase.TRAIN and event.done:
            self.step = event.done - 1

    def _train_step(self, event: events.TrainStepped) -> None:
        self.step, self.done, self.is_resumed = event.step, event.step + 1, False
        self.learning_rate = event.learning_rate
        self.loss = event.loss if math.isfinite(event.loss) else None
        if self.first_loss is None:
            self.first_loss = self.loss
        self._count(event.seconds, _DECAY)

    def _measured(self, event: events.QueryMeasured) -> None:
        self.done, self.query = event.query + 1, event

    def _pass(self, event: events.PassStarted) -> None:
        self.pass_number, self.passes = event.number, event.passes

    def _rebuilt(self, event: events.StateRebuilt) -> None:
        self.rebuilding = event.step
        if math.isfinite(event.seconds):
            self._rebuild_seconds += max(0.0, event.seconds)

    def _replay_step(self, event: events.ReplayStepped) -> None:
        self.step, self.rebuilding, self.is_resumed = event.step, None, False
        self.done += 1
        self.gradient_norm = largest(event.cotangent_norms)
        # States are rebuilt in bursts: only the mean over all steps is a stable pace.
        self._count(event.seconds, 1.0)
        self._spent += self._rebuild_seconds
        self._rebuild_seconds = 0.0

    def _reproduced(self, event: events.Reproduced) -> None:
        self.is_reproduced = event.exact

    def _retrain_step(
        self, event: events.RetrainStepped | events.Retrained | events.ProbeStepped
    ) -> None:
        self.is_resumed = False
        self.step = None if isinstance(event, events.Retrained) else event.step
        if not isinstance(event, events.ProbeStepped):
            self.subset = event.subset
        self.loss = event.loss if isinstance(event, events.RetrainStepped) else None
        steps = event.done - self.done
        if steps > 0 and math.isfinite(event.seconds):
            # Not every step is reported: these are the seconds of all steps since the last report.
            self.step_seconds = max(0.0, event.seconds) / steps
            self._spent += max(0.0, event.seconds)
            self._counted += steps
        self.done = event.done

    def _count(self, seconds: float, decay: float) -> None:
        if not math.isfinite(seconds):
            self.step_seconds = None
            return
        self.step_seconds = seconds
        self._spent = self._spent * decay + max(0.0, seconds)
        self._counted = self._counted * decay + 1.0


class RunProgress:
    """The progress of the run and of its current phase after the events so far."""

    def __init__(self) -> None:
        """Start before the first event."""
        self.events = 0
        """The number of events added."""
        self.steps = 0
        """Training steps done."""
        self.total_steps: int | None = None
        self.memory: int | None = None
        """The largest memory that a step reported."""
        self.phase: PhaseProgress | None = None
        """The current phase. After a failure it stays; after success and before the first phase
        of an attempt it is None."""
        self._unfinished: dict[tuple[Phase, str | None], PhaseProgress] = {}
        """Phases that ended without success, until a later attempt resumes them."""
        self._ended = False
        """Whether the current phase completed; only its figures remain."""

    @property
    def is_trained(self) -> bool:
        """Whether all training steps are done."""
        return bool(self.total_steps) and self.steps == self.total_steps

    def add(self, record: Mapping[str, Any]) -> RunEvent | None:
        """Update with the next record of the journal; returns its typed event."""
        self.events += 1
        event = events.parse(record)
        if event is None:
            return None
        time = record.get("time")
        time = time if isinstance(time, int | float) else 0.0
        if isinstance(event, events.TrainStepped | events.ReplayStepped):
            if event.memory is not None:
                self.memory = max(event.memory, self.memory or 0)
            if isinstance(event, events.TrainStepped):
                self.steps = event.step + 1
        elif isinstance(event, events.PhaseStarted):
            self._start_phase(event, time)
            return event
        elif isinstance(event, events.Started):
            self._abandon_phase()
        elif isinstance(event, _ENDINGS):
            self._end(event)
        elif isinstance(event, events.Resumed) and event.phase == Phase.TRAIN:
            self.steps = event.step
        if self.phase is not None:
            self.phase.add(event, time)
        return event

    def _start_phase(self, event: events.PhaseStarted, time: float) -> None:
        self.phase, self._ended = None, False
        # An unknown phase is one of a newer magic.
        with contextlib.suppress(ValueError):
            phase = Phase(event.phase)
            self.phase = PhaseProgress(phase, event.total, event.attribution, began=time, now=time)
            earlier = self._unfinished.pop(self.phase.key, None)
            if earlier is not None:
                self.phase.continue_from(earlier)
            if phase is Phase.TRAIN:
                self.total_steps = event.total

    def _abandon_phase(self) -> None:
        """A new attempt began: the phase of the previous one has ended without success."""
        if self.phase is not None and not self._ended:
            self._unfinished[self.phase.key] = self.phase
        self.phase = None

    def _end(self, event: RunEvent) -> None:
        self._ended = isinstance(event, _SUCCEEDED)
        if isinstance(event, events.Finished):
            self.phase = None


_UPDATES: dict[type[RunEvent], Callable[[PhaseProgress, Any], None]] = {
    events.Resumed: PhaseProgress._resumed,
    events.TrainStepped: PhaseProgress._train_step,
    events.QueryMeasured: PhaseProgress._measured,
    events.PassStarted: PhaseProgress._pass,
    events.StateRebuilt: PhaseProgress._rebuilt,
    events.ReplayStepped: PhaseProgress._replay_step,
    events.Reproduced: PhaseProgress._reproduced,
    events.RetrainStepped: PhaseProgress._retrain_step,
    events.Retrained: PhaseProgress._retrain_step,
    events.ProbeStepped: PhaseProgress._retrain_step,
}


def largest(norms: Sequence[float | None]) -> float | None:
    """The largest known norm; None if none is known."""
    return max((norm for norm in norms if norm is not None), default=None)


class _Fold(Protocol):
    def add(self, record: Mapping[str, Any], /) -> object:
        """Update with the next record."""


Fold = TypeVar("Fold", bound=_Fold)


class JournalFold(Generic[Fold]):
    """A fold of a journal's records, brought up to date from the file.

    A journal that is shorter than what was read was replaced or removed: the fold starts again.
    """

    def __init__(self, journal: Path, new: Callable[[], Fold]) -> None:
        """Fold the records of ``journal``, which may not exist yet, into what ``new`` returns."""
        self._journal, self._new = journal, new
        self._reader = JournalReader(journal)
        self.fold = new()

    def update(self, keep_open: bool = False) -> Fold:
        """Read what was added, in pieces, so that a long journal needs little memory.

        Raises:
            RunError: if the journal is damaged.
        """
        try:
            if self._size() < self._reader.offset:
                self._reader.close()
                self._reader, self.fold = JournalReader(self._journal), self._new()
            while records := self._reader.poll(_READ_BYTES):
                for record in records:
                    self.fold.add(record)
        finally:
            if not keep_open:
                self._reader.close()
        return self.fold

    def close(self) -> None:
        """Close the journal."""
        self._reader.close()

    def _size(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return os.path.getsize(self._journal)
        return 0
