"""Create jobs on disk: a run, an attribution or a validation, atomically."""

import os
import shutil
import time
from pathlib import Path

from engine.runs.atomic import sync_folder, sync_tree
from engine.runs.checksummed import write_record
from engine.runs.config import RunConfig
from engine.runs.environment import environment_of_a_run
from engine.runs.errors import UsageError
from engine.runs.jobs import JobFolder, jobs_of, write_desired_state
from engine.runs.listing import sweep
from engine.runs.request import AttributionRequest, Request, ValidationRequest
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import find_attribution, next_attribution_id
from engine.runs.states import DesiredState


def submit_run(
    runs: Path, run_id: str, config: RunConfig, environment: dict[str, str] | None = None
) -> JobFolder:
    """Create a run's folder with its first job, atomically and durably.

    Raises:
        FileExistsError: if the run exists.
        UsageError: if the folder cannot be created.
    """
    final = runs / run_id
    if final.exists():
        raise FileExistsError(run_id)
    _make_runs_folder(runs)
    staging = RunFolder(runs / f".{run_id}.new")
    shutil.rmtree(staging.path, ignore_errors=True)
    staging.path.mkdir()
    now = time.time()
    staging.write_config(config, run_id, now)
    request = Request(
        work="run",
        attribution=None if config.queries is None else "a0001",
        environment=environment_of_a_run(environment or {}),
        submitted=now,
    )
    _write_job(staging.path / "jobs" / "0001", request, final)
    sync_tree(staging.path)
    os.rename(staging.path, final)
    sync_folder(runs)
    return JobFolder(final / "jobs" / "0001")


def submit_attribution(
    run: RunFolder, request: AttributionRequest, environment: dict[str, str] | None = None
) -> JobFolder:
    """Add an attribution job to a run, durably."""
    promised = [other.request().attribution for other in jobs_of(run)]
    job = Request(
        work="attribute",
        attribution=next_attribution_id(run.attributions, [p for p in promised if p]),
        attribution_request=request,
        environment=environment_of_a_run(environment or {}),
        submitted=time.time(),
    )
    return _add_job(run, job)


def submit_validation(
    run: RunFolder,
    attribution: str | None,
    request: ValidationRequest,
    environment: dict[str, str] | None = None,
) -> JobFolder:
    """Add a validation job for an attribution (the latest if None) to a run, durably.

    Raises:
        UsageError: if there is no such attribution, or it is not complete.
    """
    job = Request(
        work="validate",
        attribution=find_attribution(run.attributions, attribution).name,
        validation=request,
        environment=environment_of_a_run(environment or {}),
        submitted=time.time(),
    )
    return _add_job(run, job)


def _add_job(run: RunFolder, request: Request) -> JobFolder:
    jobs = run.path / "jobs"
    jobs.mkdir(exist_ok=True)
    name = f"{len(jobs_of(run)) + 1:04d}"
    staging = jobs / f".{name}.new"
    shutil.rmtree(staging, ignore_errors=True)
    _write_job(staging, request, run.path)
    sync_tree(staging)
    os.rename(staging, jobs / name)
    sync_folder(jobs)
    return JobFolder(jobs / name)


def _make_runs_folder(runs: Path) -> None:
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot store runs in {runs}: {error.strerror}; give another folder with --runs-dir"
        ) from None
    sweep(runs)


def _write_job(folder: Path, request: Request, run: Path) -> None:
    folder.mkdir(parents=True)
    write_record(folder / "request.json", request.model_dump(mode="json"), indent=1)
    write_desired_state(folder, DesiredState.RUNNING, 0, run)
