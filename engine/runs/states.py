"""The states of a job and the one function that gives them.

A job is one piece of work on a run: its training (with the attribution of the config's queries),
a later attribution, or a validation. A run's state is that of its training, and a question never
marks it: once a run is trained it has succeeded, even if an attribution or a validation fails or is
cancelled. A job's state is a pure function of what was asked, what its attempts' files
say and which locks are held, so that nobody has to remember it:

    QUEUED → STARTING → RUNNING → SUCCEEDED | FAILED
    RUNNING → PAUSING → PAUSED,  CANCELLING → CANCELLED,  or INTERRUPTED → QUEUED by itself
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

View = dict[str, Any]
"""A run or an engine as its HTTP interface shows it: JSON of :mod:`engine.runs.api_schema`."""

PATIENCE = 3
"""Attempts in a row that may end without committing anything before a job counts as failed."""


class RunState(StrEnum):
    """Where a job stands; a run stands where its training does."""

    QUEUED = "queued"
    """Waits for its turn."""
    BLOCKED = "blocked"
    """Waits for disk or for a device."""
    STARTING = "starting"
    """Its process has been started and loads its libraries."""
    RUNNING = "running"
    PAUSING = "pausing"
    """Finishes its step and saves."""
    PAUSED = "paused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """Its process died; it goes on from what it saved as soon as an engine runs."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def settled(self) -> bool:
        """Whether nothing happens any more until somebody asks for it."""
        return self in (self.SUCCEEDED, self.FAILED, self.CANCELLED, self.PAUSED)

    @property
    def at_work(self) -> bool:
        """Whether one of its processes is alive."""
        return self in (self.STARTING, self.RUNNING, self.PAUSING, self.CANCELLING)

    @property
    def finished(self) -> bool:
        """Whether the job is over, well or not."""
        return self in (self.SUCCEEDED, self.FAILED, self.CANCELLED)


class Wish(StrEnum):
    """What the user last asked of a job."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class Ending(StrEnum):
    """How an attempt ended."""

    DONE = "done"
    """All its work is complete."""
    STOPPED = "stopped"
    """It was asked to stop and did."""
    FAILED = "failed"
    """It gave up, and would again."""
    FULL = "full"
    """The disk was full."""
    DIED = "died"
    """It was killed, or ended without a word."""


@dataclass(frozen=True)
class AttemptFacts:
    """What the files and the lock of one attempt say."""

    held: bool
    """Whether any of its processes is alive."""
    begun: bool
    """Whether its rank has begun to work."""
    ending: Ending | None
    """How it ended, if that was recorded; without a record a free lock means it died."""
    progressed: bool
    """Whether it committed anything that the next attempt need not do again."""


@dataclass(frozen=True)
class JobFacts:
    """Everything that a job's state is a function of."""

    wish: Wish
    forgiven: int
    """Attempts made before the wish: what they ended in no longer counts."""
    attempts: Sequence[AttemptFacts]


def job_state(facts: JobFacts) -> RunState:
    """The state that follows from the facts; a finished result beats a late cancel."""
    attempts = facts.attempts
    if any(attempt.ending is Ending.DONE for attempt in attempts):
        return RunState.SUCCEEDED
    if attempts and attempts[-1].held:
        return _held_state(facts.wish, attempts[-1])
    if facts.wish is Wish.CANCEL:
        return RunState.CANCELLED
    counted = attempts[facts.forgiven :]
    if counted and counted[-1].ending is Ending.FAILED:
        return RunState.FAILED
    if facts.wish is Wish.PAUSE:
        return RunState.PAUSED
    if not counted:
        return RunState.QUEUED
    if is_crash_loop(counted):
        return RunState.FAILED
    return RunState.BLOCKED if counted[-1].ending is Ending.FULL else RunState.INTERRUPTED


def is_crash_loop(attempts: Sequence[AttemptFacts]) -> bool:
    """Whether the last attempts all died without committing anything."""
    last = attempts[-PATIENCE:]
    return len(last) == PATIENCE and all(
        attempt.ending is Ending.DIED and not attempt.progressed for attempt in last
    )


def _held_state(wish: Wish, attempt: AttemptFacts) -> RunState:
    if wish is Wish.CANCEL:
        return RunState.CANCELLING
    if wish is Wish.PAUSE:
        return RunState.PAUSING
    return RunState.RUNNING if attempt.begun else RunState.STARTING
