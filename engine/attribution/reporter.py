"""The observer of a worker: every fact becomes an event in the run's journal."""

from typing import Any

from engine.attribution.device import memory_in_use
from engine.attribution.prepared_run import Job
from engine.runs.events import Event, Phase
from engine.runs.journal import JournalWriter


class Reporter:
    """Adds what the numerics do not know (learning rate, memory) and writes events."""

    def __init__(self, journal: JournalWriter | None) -> None:
        """Write to ``journal``; only the first of several ranks has one."""
        self.journal = journal
        self.job: Job | None = None
        self.reproduced: bool | None = None

    def __call__(self, event: str, /, **facts: Any) -> None:
        """Write one event."""
        if self.job is not None and event in (Event.TRAIN_STEP, Event.REPLAY_STEP):
            facts["memory"] = memory_in_use(self.job.device)
            if event == Event.TRAIN_STEP:
                facts["learning_rate"] = self.job.learning_rate(facts["step"])
        if event == Event.REPRODUCED:
            self.reproduced = bool(facts["exact"])
        if self.journal is not None:
            self.journal.append(str(event), **facts)

    def phase(self, phase: Phase, total: int, attribution: str | None = None) -> None:
        """Say that a phase begins."""
        self(Event.PHASE, phase=str(phase), total=total, attribution=attribution)
        if self.journal is not None:
            self.journal.sync()

    def close(self) -> None:
        """Let go of the journal."""
        if self.journal is not None:
            self.journal.close()
