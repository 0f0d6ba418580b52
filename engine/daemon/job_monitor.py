"""A job as its folder tells of it, read again only when something there may have changed."""

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
SURE_AFTER_SECONDS = 2.0
"""Two changes within one tick of a file system's clock leave the same time: only a time further
back than this tells of every change."""


@dataclass(frozen=True)
class Waiting:
    """Why the scheduler has not started a job yet."""

    position: int | None
    reason: str | None
    blocked: bool


class JobMonitor:
    """One job; not safe to use from several threads."""

    def __init__(self, folder: JobFolder) -> None:
        """Read the job in ``folder``.

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
        self._sure = False
        self.signs: list[Path] = []
        """Folders whose times of change tell of every change of the job."""

    @property
    def latest(self) -> AttemptFolder | None:
        """The latest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def held(self) -> bool:
        """Whether any process of it is alive."""
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
        """Where its run was when it was last asked for, if that is not where it is now."""
        home = self.folder.home()
        return None if home == str(self.folder.run.path.resolve()) else home or "elsewhere"

    def refresh(self) -> None:
        """Read what may have changed.

        Raises:
            RunError: if a file of it is damaged.
        """
        if self._sure and not self.held and self._stamp == changes_at(self.signs):
            return
        attempts = self.folder.attempts()
        signs = [self.folder.path, self.folder.path / "attempts"]
        signs += [attempt.path for attempt in attempts[-1:]]
        stamp = changes_at(signs)
        if not (self.held and attempts == self.attempts and self._refresh_held()):
            self._facts = self.folder.facts()
            self.attempts = attempts
        assert self._facts is not None
        self.state = job_state(self._facts)
        self._record = attempts[-1].exit() if attempts and not self.held else None
        self.signs, self._stamp, self._sure = signs, stamp, is_sure(stamp)

    def devices(self) -> list[str]:
        """The GPUs that it has now."""
        if not self.held or self.latest is None:
            return []
        return [str(device) for device in self.latest.about().get("devices", [])]

    def exit_code(self) -> int | None:
        """Exit code of its failure."""
        if self.state is not RunState.FAILED:
            return None
        code = (self._record or {}).get("exit_code")
        return int(code) if code else int(ExitCode.RUN_FAILED)

    def repeats(self) -> bool:
        """Whether it failed in a way that it would again."""
        return self.state is RunState.FAILED and (self._record or {}).get("repeats") is True

    def reason(self) -> str | None:
        """Why it failed or stopped, as far as its files tell."""
        message = (self._record or {}).get("message")
        if self.state is RunState.FAILED and self.ending is Ending.FAILED:
            return str(message or "its process failed and gave no reason")
        if self.state is RunState.FAILED:
            times = f"{MAX_DEAD_ATTEMPTS} times in a row without progress"
            return f"it ended {times}: {self._told()}"
        if self.state is RunState.INTERRUPTED:
            return f"{self._told()}; it goes on from what it saved"
        return str(message) if self.state is RunState.BLOCKED and message else None

    def _told(self) -> str:
        message = (self._record or {}).get("message")
        log = self.latest.supervisor_log if self.latest else None
        if message is None and log is not None and log.exists() and log.stat().st_size:
            return f"its supervisor failed; see {log}"
        return str(message or "its processes were killed, or the machine stopped")

    def _refresh_held(self) -> bool:
        """Of a job at work only the latest attempt and the desired state can change."""
        assert self._facts is not None
        latest = self.attempts[-1].facts(self.attempts[-1].is_held(), [])
        if latest.held:
            attempts = [*self._facts.attempts[:-1], latest]
            self._facts = replace(
                self._facts, desired=self.folder.desired_state(), attempts=attempts
            )
        return latest.held


def changed_at(path: Path) -> int:
    """When a file or folder last changed; 0 if it is not there."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def changes_at(paths: Iterable[Path]) -> tuple[int, ...]:
    """When each of several files or folders last changed."""
    return tuple(map(changed_at, paths))


def is_sure(times: Iterable[int]) -> bool:
    """Whether these times, read now, would be others after any further change."""
    return max(times) < time.time_ns() - SURE_AFTER_SECONDS * 1e9
