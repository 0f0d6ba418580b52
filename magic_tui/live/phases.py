"""What a worker is doing, put together from its events: the phase, how far it is and how fast."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from engine.runs.events import Event, Phase
from magic_tui.text.numbers import counted, duration_text, loss_text, pace_text
from magic_tui.text.states import PHASE_NAMES

UNITS: dict[str, str] = {
    Phase.TRAIN: "step",
    Phase.MEASURE: "query",
    Phase.REPLAY: "step",
    Phase.RETRAIN: "step",
    Phase.PROBE: "step",
}
_SHOWN = ("subset", "query", "loss", "pass", "norm", "pace", "rate", "cursor")
"""Which facts are shown while a phase runs; what changes in width comes last."""
_RECENT = 30


@dataclass
class PhaseProgress:
    """One phase: its length, what is done and the latest figures."""

    phase: str
    total: int
    began: float
    now: float
    done: int = 0
    attribution: str | None = None
    before: float = 0.0
    """Seconds that earlier attempts spent on it."""
    facts: dict[str, str] = field(default_factory=dict)
    first_loss: float | None = None
    last_loss: float | None = None
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_RECENT))

    @property
    def name(self) -> str:
        """What the phase is called while it runs."""
        return PHASE_NAMES.get(self.phase, self.phase)

    @property
    def elapsed(self) -> float:
        """Seconds from its beginning to its latest event, those of earlier attempts included."""
        return self.before + max(0.0, self.now - self.began)

    @property
    def key(self) -> tuple[str, str | None]:
        """What makes it the same phase in another attempt."""
        return self.phase, self.attribution

    @property
    def remaining(self) -> float | None:
        """Seconds to its end at the recent pace; None if that is not known yet."""
        if len(self._recent) < 2 or not self.total:
            return None
        (time_0, done_0), (time_1, done_1) = self._recent[0], self._recent[-1]
        if done_1 <= done_0 or time_1 < time_0:
            return None
        return (time_1 - time_0) / (done_1 - done_0) * max(0, self.total - self.done)

    def extent(self) -> list[str]:
        """How far it is, and the time left if that is known."""
        shown = [f"{self.done}/{self.total}"] if self.total else []
        if self.remaining is not None and self.done < self.total:
            shown.append(f"{duration_text(self.remaining)} left")
        return shown

    def details(self) -> list[str]:
        """The latest figures, the most telling first."""
        return [self.facts[name] for name in _SHOWN if self.facts.get(name)]

    def summary(self) -> str:
        """The phase in one line once it has ended."""
        unit = UNITS.get(self.phase)
        parts = [counted(self.done, unit)] if unit and self.done else []
        parts.append(duration_text(self.elapsed))
        if self.first_loss is not None and self.last_loss is not None:
            parts.append(f"loss {loss_text(self.first_loss)} → {loss_text(self.last_loss)}")
        if "exact" in self.facts:
            parts.append(self.facts["exact"])
        return "  ".join(parts)

    def go_on_from(self, earlier: "PhaseProgress") -> None:
        """Be the same phase in a later attempt."""
        self.before = earlier.elapsed
        self.first_loss, self.last_loss = earlier.first_loss, earlier.last_loss
        if "exact" in earlier.facts:
            self.facts["exact"] = earlier.facts["exact"]

    def take(self, event: dict[str, Any]) -> None:
        """Bring up to date with one event of this phase."""
        self.now = event.get("time", self.now)
        take = _TAKERS.get(event["event"])
        if take is not None:
            take(self, event)
        if event["event"] in _ADVANCING:
            self._recent.append((self.now, self.done))


def _resumed(phase: PhaseProgress, event: dict[str, Any]) -> None:
    phase.done = event["done"]
    phase.facts["cursor"] = f"goes on at step {event['step']}"


def _train_step(phase: PhaseProgress, event: dict[str, Any]) -> None:
    phase.done = event["step"] + 1
    phase.facts["cursor"] = ""
    phase.last_loss = event["loss"]
    if phase.first_loss is None:
        phase.first_loss = event["loss"]
    phase.facts["loss"] = f"loss {loss_text(event['loss'])}"
    phase.facts["pace"] = pace_text(event["seconds"])
    if event.get("learning_rate") is not None:
        phase.facts["rate"] = f"lr {event['learning_rate']:.2e}"


def _measured(phase: PhaseProgress, event: dict[str, Any]) -> None:
    phase.done += 1
    before, after = loss_text(event["loss_before"]), loss_text(event["loss_after"])
    phase.facts["query"] = f"query {event['query']}  loss {before} → {after}"


def _pass(phase: PhaseProgress, event: dict[str, Any]) -> None:
    phase.facts["cursor"] = ""
    number, passes = event["number"] + 1, event["passes"]
    phase.facts["pass"] = f"pass {number}/{passes}" if passes > 1 else ""


def _replay_step(phase: PhaseProgress, event: dict[str, Any]) -> None:
    phase.done += 1
    phase.facts["cursor"] = f"at step {event['step']}"
    phase.facts["pace"] = pace_text(event["seconds"])
    norms = [norm for norm in event["cotangent_norms"] if norm is not None]
    phase.facts["norm"] = f"cotangent {max(norms):.1e}" if norms else ""


def _rebuild_step(phase: PhaseProgress, event: dict[str, Any]) -> None:
    phase.facts["cursor"] = f"rebuilding step {event['step']}"


def _retrained(phase: PhaseProgress, event: dict[str, Any]) -> None:
    before, phase.done = phase.done, event["done"]
    if "subset" in event:
        phase.facts["subset"] = f"without {event['subset']}"
    if phase.done > before:
        phase.facts["pace"] = pace_text(event["seconds"] / (phase.done - before))


def _reproduced(phase: PhaseProgress, event: dict[str, Any]) -> None:
    if event["exact"]:
        phase.facts["exact"] = "last step reproduced bit for bit"


_TAKERS = {
    Event.RESUMED: _resumed,
    Event.TRAIN_STEP: _train_step,
    Event.MEASURED: _measured,
    Event.PASS: _pass,
    Event.REPLAY_STEP: _replay_step,
    Event.REBUILD_STEP: _rebuild_step,
    Event.REPRODUCED: _reproduced,
    Event.RETRAIN_STEP: _retrained,
    Event.RETRAINED: _retrained,
    Event.PROBE_STEP: _retrained,
}
_ADVANCING = (
    *(Event.RESUMED, Event.TRAIN_STEP, Event.MEASURED, Event.REPLAY_STEP),
    *(Event.RETRAIN_STEP, Event.RETRAINED, Event.PROBE_STEP),
)
