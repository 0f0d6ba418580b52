"""One attempt at a job, on disk. A supervisor starts with this module, so it imports little.

    <run>/jobs/0001/attempts/0001/
      lock                   held by the attempt's processes for as long as one of them lives
      attempt.json           the supervisor's process id, and what was committed before
      begun                  there once the rank works
      exit.json              how it ended, written by the supervisor
      supervisor.log         what the supervisor printed

Liveness is the held lock and never a process id: ids are used again.
"""

import contextlib
import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.runs.atomic import write_atomically
from engine.runs.checksummed import read_record, write_record
from engine.runs.errors import RunError
from engine.runs.safe_open import regular
from engine.runs.states import AttemptFacts, Ending

if TYPE_CHECKING:
    from engine.runs.jobs import JobFolder


@dataclass(frozen=True)
class AttemptFolder:
    """One attempt at a job."""

    path: Path

    @property
    def number(self) -> int:
        """Counts from 1."""
        return int(self.path.name)

    @property
    def job(self) -> "JobFolder":
        """The job it is an attempt at."""
        from engine.runs.jobs import JobFolder

        return JobFolder(self.job_path)

    @property
    def job_path(self) -> Path:
        """The folder of that job."""
        return self.path.parents[1]

    @property
    def log_file(self) -> Path:
        """What its rank printed."""
        return self.path.parents[3] / "logs" / f"{self.job_path.name}-{self.path.name}.log"

    @property
    def supervisor_log(self) -> Path:
        """What its supervisor printed: nothing, if all went well."""
        return self.path / "supervisor.log"

    def take_lock(self) -> int:
        """Take the lock; it is held until every copy of the descriptor is closed.

        Raises:
            RunError: if a process holds it.
        """
        descriptor = regular(self.path / "lock", os.O_RDWR | os.O_CREAT)
        for _ in range(20):
            # Whoever asks whether it is held has it for a moment, too.
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
        """What ``attempt.json`` says: ``mark``, and ``pid`` once a supervisor runs."""
        return read_record(self.path / "attempt.json") or {}

    def write_about(self, **facts: Any) -> None:
        """Add to ``attempt.json``."""
        write_record(self.path / "attempt.json", {**self.about(), **facts})

    def begin(self) -> None:
        """Say that the rank works."""
        write_atomically(self.path / "begun", b"")

    def write_exit(self, ending: Ending, **facts: Any) -> None:
        """Record how it ended: ``message``, ``exit_code``, ``signal``, ``facts`` where known."""
        write_record(self.path / "exit.json", {"ending": ending, "time": time.time(), **facts})

    def exit(self) -> dict[str, Any] | None:
        """How it ended, or None if nobody recorded that."""
        return read_record(self.path / "exit.json")

    def facts(self, held: bool, mark: list[int]) -> AttemptFacts:
        """What its state follows from.

        Args:
            held: whether it was held, asked before anything else: what is recorded at its end is
                written before the lock is let go.
            mark: what was committed when it had ended.
        """
        record = self.exit()
        ending = None if record is None else Ending(record["ending"])
        if ending is None and not held:
            ending = Ending.DIED
        begun = (self.path / "begun").exists()
        return AttemptFacts(held, begun, ending, mark > self.about().get("mark", []))
