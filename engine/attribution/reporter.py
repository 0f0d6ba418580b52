"""The observer of a worker: checks every event and appends it to the run's journal."""

from typing import Any

from engine.attribution.device import memory_in_use
from engine.attribution.prepared_run import Job
from engine.runs.events import Event, Phase, check
from engine.runs.journal import JournalWriter


class Reporter:
    """Adds what the numerics do not know (learning rate, memory) and writes the events."""

    def __init__(self, journal: JournalWriter | None) -> None:
        """Write to ``journal``; None for all ranks but the first."""
        self.journal = journal
        self.job: Job | None = None
        """The prepared run; until it is set, no learning rate and no memory is added."""
        self.reproduced: bool | None = None
        """Whether the last training step was reproduced bit for bit; None if not known yet."""

    def __call__(self, event: str, /, **facts: Any) -> None:
        """Write one event.

        Raises:
            TypeError: if its fields are not those of its class in :mod:`engine.runs.events`.
        """
        if self.job is not None and event in (Event.TRAIN_STEP, Event.REPLAY_STEP):
            facts["memory"] = memory_in_use(self.job.device)
            if event == Event.TRAIN_STEP:
                facts["learning_rate"] = self.job.learning_rate(facts["step"])
        check(event, facts)
        if event == Event.REPRODUCED:
            self.reproduced = bool(facts["exact"])
        if self.journal is not None:
            self.journal.append(str(event), **facts)

    def phase(self, phase: Phase, total: int, attribution: str | None = None) -> None:
        """Write that a phase begins, and sync the journal to disk."""
        self(Event.PHASE, phase=str(phase), total=total, attribution=attribution)
        if self.journal is not None:
            self.journal.sync()

    def close(self) -> None:
        """Close the journal."""
        if self.journal is not None:
            self.journal.close()
