"""The jobs of a run, on disk: what was asked, what the user wishes now, and every attempt.

    <run>/jobs/0001/
      request.json             what was asked; never changes
      wish.json                what the user last wished: run, pause or cancel
      attempts/0001/           one attempt at it: see engine.records.attempts

A job's state follows from these files and the held locks alone.
"""

import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from engine.contract.config import RunConfig
from engine.contract.errors import RunError, UsageError
from engine.contract.request import AttributionRequest, Request
from engine.contract.states import JobFacts, RunState, Wish, job_state
from engine.records.atomic import sync_folder, sync_tree, write_atomically
from engine.records.attempts import AttemptFolder as AttemptFolder
from engine.records.attempts import read_json, write_json
from engine.records.manifest import read_manifest
from engine.records.run_folder import RunFolder, sweep
from engine.records.score_store import list_attributions, next_attribution_id


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
            return Request.model_validate_json((self.path / "request.json").read_bytes())
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.path / 'request.json'} is missing or damaged "
                f"({type(error).__name__}); restore it from a backup, or remove the run"
            ) from None

    def wish(self) -> Wish:
        """What the user last wished."""
        return Wish((read_json(self.path / "wish.json") or {}).get("wish", Wish.RUN))

    def set_wish(self, wish: Wish) -> None:
        """Wish something else from now on; what earlier attempts ended in is forgiven."""
        write_json(self.path / "wish.json", {"wish": wish, "attempts": len(self.attempts())})

    def attempts(self) -> list[AttemptFolder]:
        """All attempts, the first one first."""
        with contextlib.suppress(FileNotFoundError):
            names = sorted(n for n in os.listdir(self.path / "attempts") if n.isdigit())
            return [AttemptFolder(self.path / "attempts" / name) for name in names]
        return []

    def new_attempt(self) -> tuple[AttemptFolder, int]:
        """Make the next attempt's folder; returns it and the descriptor that holds its lock."""
        attempt = AttemptFolder(self.path / "attempts" / f"{len(self.attempts()) + 1:04d}")
        attempt.path.mkdir(parents=True)
        lock = attempt.take_lock()
        try:
            attempt.write_about(mark=committed(self.run))
            sync_folder(attempt.path.parent)
        except BaseException:
            # An attempt that never was: a full disk here must not count against the job.
            shutil.rmtree(attempt.path, ignore_errors=True)
            os.close(lock)
            raise
        return attempt, lock

    def facts(self) -> JobFacts:
        """Everything that its state follows from."""
        wish = read_json(self.path / "wish.json") or {}
        attempts = self.attempts()
        # What was committed when an attempt had ended: the next one noted it, or it holds now.
        marks = [attempt.about().get("mark", []) for attempt in attempts[1:]]
        if attempts:
            # Counting takes a while, and of an attempt at work nobody asks.
            marks.append([] if attempts[-1].is_held() else committed(self.run))
        return JobFacts(
            Wish(wish.get("wish", Wish.RUN)),
            int(wish.get("attempts", 0)),
            [attempt.facts(mark) for attempt, mark in zip(attempts, marks, strict=True)],
        )

    def state(self) -> RunState:
        """Where it stands."""
        return job_state(self.facts())


def submit_run(
    runs: Path, run_id: str, config: RunConfig, environment: dict[str, str] | None = None
) -> JobFolder:
    """Make a run's folder with its first job, all at once and durably.

    Raises:
        FileExistsError: if there is such a run.
        UsageError: if runs cannot be kept there.
    """
    final = runs / run_id
    if final.exists():
        raise FileExistsError(run_id)
    _make_runs_folder(runs)
    staging = RunFolder(runs / f".{run_id}.new")
    staging.path.mkdir()
    now = time.time()
    staging.write_config(config, run_id, now)
    request = Request(
        work="run",
        attribution=None if config.queries is None else "a0001",
        environment=environment or {},
        submitted=now,
    )
    _write_request(staging.path / "jobs" / "0001", request)
    sync_tree(staging.path)
    os.rename(staging.path, final)
    sync_folder(runs)
    return JobFolder(final / "jobs" / "0001")


def submit_attribution(
    run: RunFolder, asked: AttributionRequest, environment: dict[str, str] | None = None
) -> JobFolder:
    """Add a job to a run that asks its trajectory something new, durably."""
    jobs = run.path / "jobs"
    jobs.mkdir(exist_ok=True)
    promised = [job.request().attribution for job in jobs_of(run)]
    request = Request(
        work="attribute",
        attribution=next_attribution_id(run.attributions, [p for p in promised if p]),
        asked=asked,
        environment=environment or {},
        submitted=time.time(),
    )
    name = f"{len(jobs_of(run)) + 1:04d}"
    staging = jobs / f".{name}.new"
    _write_request(staging, request)
    sync_tree(staging)
    os.rename(staging, jobs / name)
    sync_folder(jobs)
    return JobFolder(jobs / name)


def jobs_of(run: RunFolder) -> list[JobFolder]:
    """The jobs of a run, the first one first."""
    with contextlib.suppress(FileNotFoundError):
        names = sorted(n for n in os.listdir(run.path / "jobs") if n.isdigit())
        return [JobFolder(run.path / "jobs" / name) for name in names]
    return []


def current_job(run: RunFolder) -> tuple[JobFolder | None, RunState]:
    """The first job that is not finished, else the last, and its state."""
    latest: tuple[JobFolder | None, RunState] = (None, RunState.INTERRUPTED)
    for job in jobs_of(run):
        latest = (job, job.state())
        if not latest[1].finished:
            break
    return latest


def committed(run: RunFolder) -> list[int]:
    """Numbers that grow with everything a run's jobs have committed; compared in order."""
    manifest = None
    # A damaged journal is for the worker to tell; it has committed nothing that counts.
    with contextlib.suppress(RunError):
        manifest = read_manifest(run.trajectory)
    journals = run.attributions.glob(".*.new/replay.jsonl")
    return [
        len(list_attributions(run.attributions)),
        *((0, 0, -1) if manifest is None else manifest.mark()),
        sum(journal.read_bytes().count(b"\n") for journal in journals),
        int((run.path / "prepared.json").exists()),
    ]


def _make_runs_folder(runs: Path) -> None:
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot keep runs in {runs}: {error.strerror}; give another folder with --runs-dir"
        ) from None
    sweep(runs)


def _write_request(folder: Path, request: Request) -> None:
    folder.mkdir(parents=True)
    write_atomically(folder / "request.json", request.model_dump_json(indent=1).encode())
