"""The states of a job, and the pure function that computes them.

A job is one piece of work on a run: its training (with the attribution of the config's queries), a
later attribution, or a validation. The state of a run is the state of its training job: a run that
was trained has succeeded, even if a later attribution or validation fails or is cancelled.

:func:`job_state` needs only the files of the job and its held locks, so no process stores
a state:

    QUEUED → STARTING → RUNNING → SUCCEEDED | FAILED
    RUNNING → PAUSING → PAUSED,  CANCELLING → CANCELLED,  or INTERRUPTED → STARTING (retried)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

View = dict[str, Any]
"""A run or an engine as JSON of the HTTP interface (:mod:`engine.runs.api_schema`)."""

MAX_DEAD_ATTEMPTS = 3
"""After this many attempts in a row that died without progress, a job has failed."""


class RunState(StrEnum):
    """The state of a job; the state of a run is that of its training job."""

    QUEUED = "queued"
    """Waits for its turn."""
    BLOCKED = "blocked"
    """Waits for disk space or a device."""
    STARTING = "starting"
    """The worker process has been started and is loading its libraries."""
    RUNNING = "running"
    PAUSING = "pausing"
    """Finishes the current step and saves."""
    PAUSED = "paused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """The worker died; the engine starts another attempt from the last checkpoint."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def settled(self) -> bool:
        """Whether the state stays as it is until a user acts."""
        return self in (self.SUCCEEDED, self.FAILED, self.CANCELLED, self.PAUSED)

    @property
    def at_work(self) -> bool:
        """Whether a process of the job is alive."""
        return self in (self.STARTING, self.RUNNING, self.PAUSING, self.CANCELLING)

    @property
    def finished(self) -> bool:
        """Whether the job has ended, successfully or not."""
        return self in (self.SUCCEEDED, self.FAILED, self.CANCELLED)


class DesiredState(StrEnum):
    """The state that the user last requested for a job."""

    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"


class Ending(StrEnum):
    """How an attempt ended."""

    DONE = "done"
    """All work of the job is complete."""
    STOPPED = "stopped"
    """It stopped on request."""
    FAILED = "failed"
    """It failed with an error that another attempt would meet again."""
    FULL = "full"
    """The disk was full."""
    DIED = "died"
    """It was killed, or exited without reporting an outcome."""


@dataclass(frozen=True)
class AttemptFacts:
    """The files and the lock of one attempt, as far as the job's state depends on them."""

    held: bool
    """Whether one of its processes is alive."""
    begun: bool
    """Whether its worker has started to compute."""
    ending: Ending | None
    """How it ended; None while it runs. A free lock without a record means that it died."""
    progressed: bool
    """Whether it saved work that the next attempt can build on."""


@dataclass(frozen=True)
class JobFacts:
    """Everything that a job's state depends on."""

    desired: DesiredState
    reset_attempts: int
    """The failures of the first ``reset_attempts`` attempts were reset: they no longer count."""
    attempts: Sequence[AttemptFacts]


def job_state(facts: JobFacts) -> RunState:
    """The state of a job; a complete result takes precedence over a later cancellation."""
    attempts = facts.attempts
    if any(attempt.ending is Ending.DONE for attempt in attempts):
        return RunState.SUCCEEDED
    if attempts and attempts[-1].held:
        return _state_at_work(facts.desired, attempts[-1])
    if facts.desired is DesiredState.CANCELLED:
        return RunState.CANCELLED
    counted = attempts[facts.reset_attempts :]
    if counted and counted[-1].ending is Ending.FAILED:
        return RunState.FAILED
    if facts.desired is DesiredState.PAUSED:
        return RunState.PAUSED
    if not counted:
        return RunState.QUEUED
    if is_crash_loop(counted):
        return RunState.FAILED
    return RunState.BLOCKED if counted[-1].ending is Ending.FULL else RunState.INTERRUPTED


def is_crash_loop(attempts: Sequence[AttemptFacts]) -> bool:
    """Whether each of the last ``MAX_DEAD_ATTEMPTS`` attempts died without progress."""
    last = attempts[-MAX_DEAD_ATTEMPTS:]
    return len(last) == MAX_DEAD_ATTEMPTS and all(
        attempt.ending is Ending.DIED and not attempt.progressed for attempt in last
    )


def _state_at_work(desired: DesiredState, attempt: AttemptFacts) -> RunState:
    if desired is DesiredState.CANCELLED:
        return RunState.CANCELLING
    if desired is DesiredState.PAUSED:
        return RunState.PAUSING
    return RunState.RUNNING if attempt.begun else RunState.STARTING
