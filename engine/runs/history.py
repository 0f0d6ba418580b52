"""What a run's journal tells of every step: losses, rates, times, and each replay of it.

A journal is read once and then only what was added, however often a screen asks.
"""

import functools
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.runs.events import Event, Phase
from engine.runs.journal import JournalReader
from engine.runs.run_folder import RunFolder

Floats = NDArray[np.float64]
_READ_BYTES = 2**22


@dataclass
class Replayed:
    """One pass of a replay: the queries it carried, and what each of its steps took."""

    attribution: str | None
    queries: list[int]
    norms: dict[int, list[float | None]] = field(default_factory=dict)
    """By step, the cotangent's norm of every query of the pass."""
    seconds: dict[int, float] = field(default_factory=dict)
    memory: int = 0
    """Bytes held at most."""


@dataclass
class History:
    """The journal so far; a step that was taken twice counts as it was taken last."""

    losses: dict[int, float] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)
    step_seconds: dict[int, float] = field(default_factory=dict)
    rebuild_seconds: dict[tuple[str | None, int], float] = field(default_factory=dict)
    """By attribution and step."""
    passes: list[Replayed] = field(default_factory=list)
    state_bytes: int = 0
    """Size of a stored train state."""
    total_steps: int | None = None
    warnings: list[str] = field(default_factory=list)
    reproduced: dict[str | None, tuple[bool, float]] = field(default_factory=dict)
    """By attribution: whether the last step came out the same, and how far off it was."""
    _attribution: str | None = None

    def take(self, event: dict[str, Any]) -> None:
        """Bring up to date with one event."""
        taker = _TAKERS.get(event["event"])
        if taker is not None:
            taker(self, event)

    def by_step(self, values: dict[int, float], steps: int) -> Floats:
        """Values (step,), NaN where nothing was recorded."""
        found = np.full(steps, np.nan)
        for step, value in values.items():
            if 0 <= step < steps and value is not None:
                found[step] = value
        return found

    def passes_of(self, attribution: str) -> list[Replayed]:
        """The passes of one attribution."""
        return [each for each in self.passes if each.attribution == attribution]


def read_history(run: RunFolder) -> History:
    """The history of a run as its journal stands now.

    Raises:
        RunError: if the journal is damaged.
    """
    return _follower(run.events_file).history()


class _Follower:
    """Reads a journal on; safe to be asked from several threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._reader = JournalReader(path)
        self._history = History()

    def history(self) -> History:
        with self._lock:
            if self._reader.has_shrunk() or not self._reader.path.exists():
                self._reader = JournalReader(self._reader.path)
                self._history = History()
            try:
                while events := self._reader.poll(_READ_BYTES):
                    for event in events:
                        self._history.take(event)
            finally:
                self._reader.close()
            return self._history


@functools.lru_cache(maxsize=4)
def _follower(path: Path) -> _Follower:
    return _Follower(path)


def _started(history: History, event: dict[str, Any]) -> None:
    history.warnings = [str(sentence) for sentence in event.get("warnings") or ()]


def _phase(history: History, event: dict[str, Any]) -> None:
    history._attribution = event.get("attribution")
    if event["phase"] == Phase.TRAIN:
        history.total_steps = event["total"]


def _train_step(history: History, event: dict[str, Any]) -> None:
    step = event["step"]
    history.losses[step] = event["loss"]
    history.step_seconds[step] = event["seconds"]
    if event.get("learning_rate") is not None:
        history.rates[step] = event["learning_rate"]


def _checkpoint(history: History, event: dict[str, Any]) -> None:
    if event.get("kind") == "state":
        history.state_bytes = max(history.state_bytes, event["bytes"])


def _pass(history: History, event: dict[str, Any]) -> None:
    history.passes.append(Replayed(history._attribution, list(event["queries"])))


def _rebuild_step(history: History, event: dict[str, Any]) -> None:
    history.rebuild_seconds[history._attribution, event["step"]] = event["seconds"]


def _replay_step(history: History, event: dict[str, Any]) -> None:
    if not history.passes:
        return
    current = history.passes[-1]
    current.norms[event["step"]] = event["cotangent_norms"]
    current.seconds[event["step"]] = event["seconds"]
    current.memory = max(current.memory, event.get("memory") or 0)


def _reproduced(history: History, event: dict[str, Any]) -> None:
    difference = float(event.get("difference") or 0.0)
    history.reproduced[history._attribution] = (bool(event["exact"]), difference)


_TAKERS = {
    Event.STARTED: _started,
    Event.PHASE: _phase,
    Event.TRAIN_STEP: _train_step,
    Event.CHECKPOINT: _checkpoint,
    Event.PASS: _pass,
    Event.REBUILD_STEP: _rebuild_step,
    Event.REPLAY_STEP: _replay_step,
    Event.REPRODUCED: _reproduced,
}
