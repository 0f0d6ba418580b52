"""The state of one job, read again only when its folder may have changed."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.runs.attempts import AttemptFolder
from engine.runs.errors import ExitCode
from engine.runs.jobs import JobFolder
from engine.runs.states import (
    MAX_DEAD_ATTEMPTS,
    DesiredState,
    Ending,
    JobFacts,
    RunState,
    job_state,
)

WAITING = (RunState.QUEUED, RunState.INTERRUPTED, RunState.BLOCKED)
"""States of a job that starts as soon as it can."""
RELIABLE_AFTER_SECONDS = 2.0
"""Two changes within one tick of a filesystem's clock have the same modification time, so only a
time that is this old rules out a further change."""


@dataclass(frozen=True)
class Waiting:
    """Why the scheduler has not started a job yet."""

    position: int | None
    reason: str | None
    blocked: bool


class JobMonitor:
    """One job; not thread-safe."""

    def __init__(self, folder: JobFolder) -> None:
        """Read the request of the job in ``folder``.

        Raises:
            RunError: if it cannot be read.
        """
        self.folder = folder
        self.number = folder.number
        self.request = folder.request()
        self.attempts: list[AttemptFolder] = []
        self.state = RunState.QUEUED
        self._facts: JobFacts | None = None
        self._record: dict[str, Any] | None = None
        self._stamp: tuple[int, ...] = ()
        self._is_reliable = False
        self.watched: list[Path] = []
        """Folders whose modification times show every change of the job."""

    @property
    def latest(self) -> AttemptFolder | None:
        """The latest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def held(self) -> bool:
        """Whether a process of it is alive."""
        return bool(self._facts and self._facts.attempts and self._facts.attempts[-1].held)

    @property
    def desired(self) -> DesiredState:
        """The state that the user last requested."""
        return self._facts.desired if self._facts else DesiredState.RUNNING

    @property
    def ending(self) -> Ending | None:
        """How the latest attempt ended."""
        facts = self._facts.attempts if self._facts else ()
        return facts[-1].ending if facts else None

    def moved_from(self) -> str | None:
        """The folder in which it was last submitted or resumed, if that is another one."""
        home = self.folder.home()
        return None if home == str(self.folder.run.path.resolve()) else home or "elsewhere"

    def refresh(self) -> None:
        """Read what may have changed.

        Raises:
            RunError: if a file of the job is damaged.
        """
        if self._is_reliable and not self.held and self._stamp == modification_times(self.watched):
            return
        attempts = self.folder.attempts()
        watched = [self.folder.path, self.folder.path / "attempts"]
        watched += [attempt.path for attempt in attempts[-1:]]
        stamp = modification_times(watched)
        if not (self.held and attempts == self.attempts and self._refresh_held()):
            self._facts = self.folder.facts()
            self.attempts = attempts
        assert self._facts is not None
        self.state = job_state(self._facts)
        self._record = attempts[-1].exit() if attempts and not self.held else None
        self.watched, self._stamp, self._is_reliable = watched, stamp, is_reliable(stamp)

    def devices(self) -> list[str]:
        """The GPUs that it uses now."""
        if not self.held or self.latest is None:
            return []
        return [str(device) for device in self.latest.about().get("devices", [])]

    def exit_code(self) -> int | None:
        """The exit code of its failure; None if it has not failed."""
        if self.state is not RunState.FAILED:
            return None
        code = (self._record or {}).get("exit_code")
        return int(code) if code else int(ExitCode.RUN_FAILED)

    def repeats(self) -> bool:
        """Whether it failed in a way that another attempt would repeat."""
        return self.state is RunState.FAILED and (self._record or {}).get("repeats") is True

    def reason(self) -> str | None:
        """Why it failed or stopped, if its files record that."""
        message = (self._record or {}).get("message")
        if self.state is RunState.FAILED and self.ending is Ending.FAILED:
            return str(message or "its process failed without an error message")
        if self.state is RunState.FAILED:
            times = f"{MAX_DEAD_ATTEMPTS} times in a row without progress"
            return f"it ended {times}: {self._last_message()}"
        if self.state is RunState.INTERRUPTED:
            return f"{self._last_message()}; it continues from its last checkpoint"
        return str(message) if self.state is RunState.BLOCKED and message else None

    def _last_message(self) -> str:
        message = (self._record or {}).get("message")
        log = self.latest.supervisor_log if self.latest else None
        if message is None and log is not None and log.exists() and log.stat().st_size:
            return f"its supervisor failed; see {log}"
        return str(message or "its processes were killed, or the machine stopped")

    def _refresh_held(self) -> bool:
        """Update what can change while an attempt runs; False if that has ended."""
        assert self._facts is not None
        latest = self.attempts[-1].facts(self.attempts[-1].is_held(), [])
        if latest.held:
            attempts = [*self._facts.attempts[:-1], latest]
            desired = self.folder.desired_state()
            self._facts = replace(self._facts, desired=desired, attempts=attempts)
        return latest.held


def modified_at(path: Path) -> int:
    """The modification time of a file or folder in ns; 0 if it does not exist."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def modification_times(paths: Iterable[Path]) -> tuple[int, ...]:
    """The modification times of several files or folders."""
    return tuple(map(modified_at, paths))


def is_reliable(times: Iterable[int]) -> bool:
    """Whether any further change would give other modification times than these."""
    return max(times) < time.time_ns() - RELIABLE_AFTER_SECONDS * 1e9
