"""One attempt at a job, on disk. A supervisor loads this module at start, so it imports little.

    <run>/jobs/0001/attempts/0001/
      lock                   held by the attempt's processes while one of them lives
      attempt.json           the supervisor's process id, and the progress marker at the start
      begun                  exists once the worker computes
      exit.json              how it ended, written by the supervisor
      supervisor.log         output of the supervisor

An attempt is alive if its lock is held. Process ids are no evidence, because they are reused.
"""

import contextlib
import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.runs.atomic import write_atomically
from engine.runs.checksummed import read_record, write_record
from engine.runs.errors import RunError
from engine.runs.safe_open import regular
from engine.runs.states import AttemptFacts, Ending


@dataclass(frozen=True)
class AttemptFolder:
    """The folder of one attempt."""

    path: Path

    @property
    def number(self) -> int:
        """The number of the attempt in its job, from 1."""
        return int(self.path.name)

    @property
    def job_path(self) -> Path:
        """The folder of the job, for :class:`engine.runs.jobs.JobFolder`."""
        return self.path.parents[1]

    @property
    def log_file(self) -> Path:
        """Output of the worker."""
        return self.path.parents[3] / "logs" / f"{self.job_path.name}-{self.path.name}.log"

    @property
    def supervisor_log(self) -> Path:
        """Output of the supervisor; empty unless the supervisor failed."""
        return self.path / "supervisor.log"

    def take_lock(self) -> int:
        """Take the lock; it is held until every copy of the descriptor is closed.

        Raises:
            RunError: if a process holds it.
        """
        descriptor = regular(self.path / "lock", os.O_RDWR | os.O_CREAT)
        for _ in range(20):
            # is_held() takes the lock for a moment, too.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            time.sleep(0.02)
        os.close(descriptor)
        raise RunError(f"{self.path} is in use by another process; wait until it ends")

    def is_held(self) -> bool:
        """Whether one of its processes is alive."""
        try:
            descriptor = regular(self.path / "lock", os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def about(self) -> dict[str, Any]:
        """``attempt.json``: ``progress_marker``, and ``pid`` once a supervisor runs."""
        return read_record(self.path / "attempt.json") or {}

    def write_about(self, **facts: Any) -> None:
        """Add to ``attempt.json``."""
        write_record(self.path / "attempt.json", {**self.about(), **facts})

    def begin(self) -> None:
        """Record that the worker computes."""
        write_atomically(self.path / "begun", b"")

    def write_exit(self, ending: Ending, **facts: Any) -> None:
        """Record how it ended: ``message``, ``exit_code``, ``signal``, ``facts`` where known."""
        write_record(self.path / "exit.json", {"ending": ending, "time": time.time(), **facts})

    def exit(self) -> dict[str, Any] | None:
        """The record of how it ended; None if there is none."""
        return read_record(self.path / "exit.json")

    def facts(self, held: bool, marker: list[int]) -> AttemptFacts:
        """The facts that the job's state depends on.

        Args:
            held: whether the lock was held, tested before anything is read: the record of the end
                is written before the lock is released.
            marker: the progress marker when the attempt ended.
        """
        record = self.exit()
        ending = None if record is None else Ending(record["ending"])
        if ending is None and not held:
            ending = Ending.DIED
        begun = (self.path / "begun").exists()
        progressed = marker > self.about().get("progress_marker", [])
        return AttemptFacts(held, begun, ending, progressed)
