"""The jobs of a run on disk: the request, the desired state and every attempt.

    <run>/jobs/0001/
      request.json             the request; never changes
      desired_state.json       what the user last requested: running, paused or cancelled
      attempts/0001/           one attempt: see engine.runs.attempts

The state of a job depends only on these files and the held locks.
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
from typing import Any

from engine.runs.atomic import sync_folder
from engine.runs.attempts import AttemptFolder as AttemptFolder
from engine.runs.checksummed import ChangedError, read_record, write_record
from engine.runs.errors import RunError
from engine.runs.manifest import read_manifest
from engine.runs.request import Request
from engine.runs.run_folder import RunFolder, try_lock
from engine.runs.safe_open import open_regular
from engine.runs.score_store import list_attributions
from engine.runs.states import DesiredState, JobFacts, RunState, job_state

_LOCK_SECONDS = 2.0
"""Seconds to wait while another engine creates an attempt."""


@dataclass(frozen=True)
class JobFolder:
    """The folder of one job."""

    path: Path

    @property
    def number(self) -> int:
        """The number of the job in its run, from 1."""
        return int(self.path.name)

    @property
    def run(self) -> RunFolder:
        """The run that the job works on."""
        return RunFolder(self.path.parents[1])

    def request(self) -> Request:
        """The request of the job.

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

    def desired_state(self) -> DesiredState:
        """The state that the user last requested."""
        return DesiredState(self._desired()["desired_state"])

    def home(self) -> str | None:
        """The run's path when the job was last submitted or resumed; a copy lies elsewhere."""
        home = self._desired()["home"]
        return None if home is None else str(home)

    def set_desired_state(self, state: DesiredState) -> None:
        """Request a state durably; failures of earlier attempts are reset."""
        write_desired_state(self.path, state, len(self.attempts()), self.run.path)

    def attempts(self) -> list[AttemptFolder]:
        """All attempts, the first one first."""
        with contextlib.suppress(FileNotFoundError):
            names = sorted(n for n in os.listdir(self.path / "attempts") if n.isdigit())
            return [AttemptFolder(self.path / "attempts" / name) for name in names]
        return []

    def new_attempt(self) -> tuple[AttemptFolder, int]:
        """Create the next attempt's folder; returns it with the descriptor that holds its lock.

        The folder appears with its lock held. If several engines try, one succeeds.

        Raises:
            RunError: if an attempt is running.
        """
        (self.path / "attempts").mkdir(exist_ok=True)
        with self._creation_lock():
            before = self.attempts()
            if before and before[-1].is_held():
                raise RunError(f"{before[-1].path} is running; wait until it ends")
            staging = AttemptFolder(self.path / "attempts" / ".next.new")
            shutil.rmtree(staging.path, ignore_errors=True)
            staging.path.mkdir()
            lock = staging.take_lock()
            try:
                staging.write_about(progress_marker=progress_marker(self.run))
                attempt = AttemptFolder(staging.path.with_name(f"{len(before) + 1:04d}"))
                os.rename(staging.path, attempt.path)
                sync_folder(attempt.path.parent)
            except BaseException:
                # A full disk here must not count as a failed attempt.
                shutil.rmtree(staging.path, ignore_errors=True)
                os.close(lock)
                raise
        return attempt, lock

    def facts(self) -> JobFacts:
        """Everything that the state depends on."""
        desired = self._desired()
        attempts = self.attempts()
        held = [attempt.is_held() for attempt in attempts]
        # The marker at an attempt's end: stored by the next attempt, or the current one.
        markers = [attempt.about().get("progress_marker", []) for attempt in attempts[1:]]
        if attempts:
            # The marker takes a while to compute, and a running attempt does not need it.
            markers.append([] if held[-1] else progress_marker(self.run))
        facts = [a.facts(*rest) for a, *rest in zip(attempts, held, markers, strict=True)]
        state = DesiredState(desired["desired_state"])
        return JobFacts(state, int(desired["reset_attempts"]), facts)

    def state(self) -> RunState:
        """The state of the job."""
        return job_state(self.facts())

    def _desired(self) -> dict[str, Any]:
        default = {"desired_state": DesiredState.RUNNING, "reset_attempts": 0, "home": None}
        return {**default, **(read_record(self.path / "desired_state.json") or {})}

    @contextlib.contextmanager
    def _creation_lock(self) -> Iterator[None]:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        deadline = time.monotonic() + _LOCK_SECONDS
        try:
            while not try_lock(descriptor, fcntl.LOCK_EX):
                if time.monotonic() >= deadline:
                    raise RunError(f"{self.path} is in use by another process; wait until it ends")
                time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)


def write_desired_state(job: Path, state: DesiredState, reset_attempts: int, run: Path) -> None:
    """Write ``desired_state.json`` of the job folder ``job``; ``run`` is the run's folder."""
    facts = {"desired_state": state, "reset_attempts": reset_attempts, "home": str(run.resolve())}
    write_record(job / "desired_state.json", facts)


def jobs_of(run: RunFolder) -> list[JobFolder]:
    """The jobs of a run, the first one first."""
    with contextlib.suppress(FileNotFoundError):
        names = sorted(n for n in os.listdir(run.path / "jobs") if n.isdigit())
        return [JobFolder(run.path / "jobs" / name) for name in names]
    return []


def progress_marker(run: RunFolder) -> list[int]:
    """Counts of the work that a run's jobs have saved; more work compares greater.

    The first entries count the larger pieces: attributions, then checkpoints, then replayed steps.
    """
    manifest = None
    # The worker reports a damaged journal; the files that it lists do not count.
    with contextlib.suppress(RunError):
        manifest = read_manifest(run.trajectory)
    journals = run.attributions.glob(".*.new/**/replay.jsonl")
    return [
        len(list_attributions(run.attributions)),
        *((0, 0, -1) if manifest is None else manifest.progress_marker()),
        sum(map(_count_lines, journals)),
        int((run.path / "prepared.json").exists()),
        _count_lines(run.retrainings_file),
    ]


def _count_lines(journal: Path) -> int:
    with contextlib.suppress(FileNotFoundError), open_regular(journal) as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))
    return 0
