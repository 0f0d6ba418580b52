"""A rank that is interrupted at its n-th file operation.

The rank runs in a fork of this process, which has loaded torch once and computed nothing: a kill
point costs a second instead of five.
"""

import contextlib
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.runs.config import RunConfig
from engine.runs.jobs import JobFolder, jobs_of
from engine.runs.request import AttributionRequest
from engine.runs.run_folder import RunFolder
from engine.runs.states import Ending, RunState
from engine.runs.submission import submit_attribution, submit_run

COUNTED = {
    *("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"),
}
"""Audit events of file operations that may change files."""
RUN_ID = "20250101T000000-00000000"


@dataclass(frozen=True)
class Harm:
    """How a rank is interrupted."""

    at: int | None = None
    """The file operation before which it receives the signal, counted from 1."""
    signal: int = signal.SIGKILL
    largest_file: int | None = None
    """Size of a file beyond which writes fail."""


@dataclass(frozen=True)
class End:
    """The result of a rank."""

    killed: bool
    exit_code: int
    operations: int
    """The number of file operations that it began."""


def submitted(runs: Path, config: dict[str, Any], texts: tuple[str, ...] = ()) -> RunFolder:
    """A run that waits for its first attempt, always under the same id; ``texts`` are queries."""
    job = submit_run(runs, RUN_ID, RunConfig.model_validate(config))
    if texts:
        submit_attribution(job.run, AttributionRequest(texts=texts))
    return job.run


def next_job(run: RunFolder) -> JobFolder | None:
    """The first job that has not succeeded."""
    return next((job for job in jobs_of(run) if job.state() is not RunState.SUCCEEDED), None)


def current_job(run: RunFolder) -> tuple[JobFolder | None, RunState]:
    """The first job that is not finished, else the last, and its state."""
    latest: tuple[JobFolder | None, RunState] = (None, RunState.INTERRUPTED)
    for job in jobs_of(run):
        latest = (job, job.state())
        if not latest[1].finished:
            break
    return latest


def finish(run: RunFolder) -> None:
    """Run every job to its end without interruption."""
    while (job := next_job(run)) is not None:
        end = attempt(job)
        assert end.exit_code == 0, log_of(job).read_text()


def attempt(job: JobFolder, harm: Harm | None = None) -> End:
    """One attempt at a job in a fork, interrupted by ``harm``."""
    folder, lock = job.new_attempt()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 70
        try:
            with open(log_of(job), "a") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            _count_operations(job.run.path, writing, harm or Harm())
            from engine.worker.main import main

            code = main(["job", "--attempt", str(folder.path)])
        finally:
            os._exit(code)
    os.close(writing)
    os.close(lock)
    counted = 0
    while chunk := os.read(reading, 65536):
        counted += len(chunk)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    code = -os.WTERMSIG(status) if killed else os.WEXITSTATUS(status)
    if code == 0:
        folder.write_exit(Ending.DONE)
    return End(killed, code, counted)


def log_of(job: JobFolder) -> Path:
    """What the ranks of a job printed; beside the runs, where no disk is full."""
    return job.run.path.parent.parent / f"{job.path.name}.log"


def _count_operations(folder: Path, writing: int, harm: Harm) -> None:
    place, count = os.fsencode(folder), 0
    if harm.largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (harm.largest_file, harm.largest_file))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in COUNTED or not arguments:
            return
        with contextlib.suppress(TypeError):
            if not os.fsencode(arguments[0]).startswith(place):
                return
            count += 1
            os.write(writing, b".")
            if count == harm.at:
                os.kill(os.getpid(), harm.signal)

    sys.addaudithook(hook)


def fingerprint(run: RunFolder) -> dict[str, bytes]:
    """The bytes of all files that must not depend on interruptions, by relative path."""
    wanted = [
        *run.trajectory.glob("*.safetensors"),
        *run.rows_store.rglob("*"),
        *run.attributions.glob("*/queries.parquet"),
        *run.attributions.glob("*/scores.zarr/**/*"),
        run.documents_file,
    ]
    return {str(p.relative_to(run.path)): p.read_bytes() for p in wanted if p.is_file()}


def leftovers(run: RunFolder) -> list[str]:
    """Files that serve resuming only and must be removed at the end."""
    stray = [
        *run.path.rglob("*.tmp"),
        *run.path.rglob("*.partial"),
        *run.path.rglob("*.unfinished"),
        *run.trajectory.glob("resume-*"),
        *run.attributions.glob(".*"),
        *run.attributions.rglob("*-step-*"),
        *run.attributions.rglob("replay.jsonl"),
    ]
    return [str(path.relative_to(run.path)) for path in stray]


def wait_until(condition: Any, seconds: float = 60.0) -> None:
    """Wait for a condition to hold."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.02)
