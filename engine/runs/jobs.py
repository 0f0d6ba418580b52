"""The jobs of a run, on disk: what was asked, what the user wishes now, and every attempt.

    <run>/jobs/0001/
      request.json             what was asked; never changes
      wish.json                what the user last wished: run, pause or cancel
      attempts/0001/           one attempt at it: see engine.runs.attempts

A job's state follows from these files and the held locks alone.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.runs.atomic import sync_folder
from engine.runs.attempts import AttemptFolder as AttemptFolder
from engine.runs.checksummed import ChangedError, read_record, write_record
from engine.runs.errors import RunError
from engine.runs.manifest import read_manifest
from engine.runs.request import Request
from engine.runs.run_folder import RunFolder, try_lock
from engine.runs.safe_open import open_regular
from engine.runs.score_store import list_attributions
from engine.runs.states import JobFacts, RunState, Wish, job_state

_PATIENCE_SECONDS = 2.0
"""How long another engine may take to make an attempt; no stranger is waited for any longer."""


@dataclass(frozen=True)
class JobFolder:
    """One job of a run."""

    path: Path

    @property
    def number(self) -> int:
        """Counts from 1."""
        return int(self.path.name)

    @property
    def run(self) -> RunFolder:
        """The run it works on."""
        return RunFolder(self.path.parents[1])

    def request(self) -> Request:
        """What was asked.

        Raises:
            RunError: if it cannot be read.
        """
        try:
            values = read_record(self.path / "request.json")
            return Request.model_validate_json(json.dumps(values))
        except (OSError, ValueError, ChangedError) as error:
            raise RunError(
                f"{self.path / 'request.json'} is missing or damaged "
                f"({type(error).__name__}); restore it from a backup"
            ) from None

    def wish(self) -> Wish:
        """What the user last wished."""
        return Wish((read_record(self.path / "wish.json") or {}).get("wish", Wish.RUN))

    def home(self) -> str | None:
        """Where the run was when this was last asked for: a copy elsewhere is another's."""
        home = (read_record(self.path / "wish.json") or {}).get("home")
        return None if home is None else str(home)

    def set_wish(self, wish: Wish) -> None:
        """Wish something else from now on; what earlier attempts ended in is forgiven."""
        home = str(self.run.path.resolve())
        facts = {"wish": wish, "attempts": len(self.attempts()), "home": home}
        write_record(self.path / "wish.json", facts)

    def attempts(self) -> list[AttemptFolder]:
        """All attempts, the first one first."""
        with contextlib.suppress(FileNotFoundError):
            names = sorted(n for n in os.listdir(self.path / "attempts") if n.isdigit())
            return [AttemptFolder(self.path / "attempts" / name) for name in names]
        return []

    def new_attempt(self) -> tuple[AttemptFolder, int]:
        """Make the next attempt's folder; returns it and the descriptor that holds its lock.

        It appears with its lock already held. Of several engines one makes it.

        Raises:
            RunError: if an attempt is at work.
        """
        (self.path / "attempts").mkdir(exist_ok=True)
        with self._one_at_a_time():
            before = self.attempts()
            if before and before[-1].is_held():
                raise RunError(f"{before[-1].path} is at work; wait until it ends")
            staging = AttemptFolder(self.path / "attempts" / ".next.new")
            shutil.rmtree(staging.path, ignore_errors=True)
            staging.path.mkdir()
            lock = staging.take_lock()
            try:
                staging.write_about(mark=committed(self.run))
                attempt = AttemptFolder(staging.path.with_name(f"{len(before) + 1:04d}"))
                os.rename(staging.path, attempt.path)
                sync_folder(attempt.path.parent)
            except BaseException:
                # An attempt that never was: a full disk here must not count against the job.
                shutil.rmtree(staging.path, ignore_errors=True)
                os.close(lock)
                raise
        return attempt, lock

    def facts(self) -> JobFacts:
        """Everything that its state follows from."""
        wish = read_record(self.path / "wish.json") or {}
        attempts = self.attempts()
        held = [attempt.is_held() for attempt in attempts]
        # What was committed when an attempt had ended: the next one noted it, or it holds now.
        marks = [attempt.about().get("mark", []) for attempt in attempts[1:]]
        if attempts:
            # Counting takes a while, and of an attempt at work nobody asks.
            marks.append([] if held[-1] else committed(self.run))
        facts = [a.facts(*rest) for a, *rest in zip(attempts, held, marks, strict=True)]
        return JobFacts(Wish(wish.get("wish", Wish.RUN)), int(wish.get("attempts", 0)), facts)

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        try:
            while not try_lock(descriptor, fcntl.LOCK_EX):
                if time.monotonic() >= deadline:
                    raise RunError(f"{self.path} is in use by another process; wait until it ends")
                time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)

    def state(self) -> RunState:
        """Where it stands."""
        return job_state(self.facts())


def jobs_of(run: RunFolder) -> list[JobFolder]:
    """The jobs of a run, the first one first."""
    with contextlib.suppress(FileNotFoundError):
        names = sorted(n for n in os.listdir(run.path / "jobs") if n.isdigit())
        return [JobFolder(run.path / "jobs" / name) for name in names]
    return []


def committed(run: RunFolder) -> list[int]:
    """Numbers that grow with everything a run's jobs have committed; compared in order."""
    manifest = None
    # A damaged journal is for the worker to tell; it has committed nothing that counts.
    with contextlib.suppress(RunError):
        manifest = read_manifest(run.trajectory)
    journals = run.attributions.glob(".*.new/**/replay.jsonl")
    return [
        len(list_attributions(run.attributions)),
        *((0, 0, -1) if manifest is None else manifest.mark()),
        sum(map(_lines, journals)),
        int((run.path / "prepared.json").exists()),
        _lines(run.bank_file),
    ]


def _lines(journal: Path) -> int:
    with contextlib.suppress(FileNotFoundError), open_regular(journal) as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))
    return 0
