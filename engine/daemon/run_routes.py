"""The routes of runs; everything but streams, which are in ``stream_routes``."""

import time
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from fastapi import Path as InPath
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema
from starlette.concurrency import run_in_threadpool

from engine.daemon.http_errors import PROBLEMS
from engine.daemon.serving import TheEngine, TheServing
from engine.daemon.streams import LATEST_SECONDS, TICK_SECONDS, Due, is_settled
from engine.runs.api_schema import (
    AbsolutePath,
    CodeView,
    FolderView,
    Removed,
    RunId,
    RunList,
    RunView,
    SubmitAttribution,
    SubmitRun,
    SubmitValidation,
)
from engine.runs.errors import NotFoundError

LONGEST_WAIT = 60.0
"""Seconds; a client that wants to wait longer asks again."""
RunsDir = Annotated[AbsolutePath, Query(description="The folder of the runs.")]
Wanted = Annotated[str, Field(max_length=200)]
JobNumber = Annotated[int, Field(ge=1, le=9999)]
TheRun = Annotated[RunId, InPath(description="The run's id.")]

router = APIRouter(prefix="/v1/runs", tags=["runs"], responses=PROBLEMS)
folders = APIRouter(prefix="/v1/folders", tags=["folders"], responses=PROBLEMS)


@folders.post("/allow", status_code=202)
def allow_folder(engine: TheEngine, runs_dir: RunsDir) -> FolderView:
    """Accept from now on that others may write in a folder of runs."""
    return FolderView(runs_dir=str(engine.allow(Path(runs_dir))), jobs=0)


@folders.post("/forget", status_code=202)
def forget_folder(engine: TheEngine, runs_dir: RunsDir) -> FolderView:
    """Start nothing more of what was asked for in a folder of runs so far."""
    return FolderView(runs_dir=runs_dir, jobs=engine.forget(Path(runs_dir)))


@router.get("")
def list_runs(engine: TheEngine, runs_dir: RunsDir) -> RunList:
    """All runs in a folder, oldest first."""
    return RunList(runs=engine.runs(Path(runs_dir)))


@router.post(
    "",
    status_code=201,
    responses={200: {"model": RunView, "description": "It was there already"}},
)
def submit_run(engine: TheEngine, wanted: SubmitRun, response: Response) -> RunView:
    """Queue a run. Its folder is on disk once this is answered; asking again changes nothing."""
    view, created = engine.submit(wanted)
    response.status_code = 201 if created else 200
    return view


@router.get("/find")
def find_run(
    engine: TheEngine,
    runs_dir: RunsDir,
    wanted: Annotated[Wanted | SkipJsonSchema[None], Query()] = None,
) -> RunView:
    """The run of an id, a unique prefix of one or a name; the latest if ``wanted`` is left out."""
    return engine.find(Path(runs_dir), wanted)


@router.get("/{run_id}/code")
def code_of_run(engine: TheEngine, run_id: TheRun, runs_dir: RunsDir) -> CodeView:
    """The code that a run brings, and whether this engine may load it."""
    return engine.code(Path(runs_dir), run_id)


@router.post("/{run_id}/code", status_code=202)
def accept_code(engine: TheEngine, run_id: TheRun, runs_dir: RunsDir) -> CodeView:
    """Accept the code of a run as it is now."""
    return engine.code(Path(runs_dir), run_id, accept=True)


@router.get("/{run_id}")
def one_run(engine: TheEngine, run_id: TheRun, runs_dir: RunsDir) -> RunView:
    """A run: where it stands and what it occupies."""
    return engine.run(Path(runs_dir), run_id)


@router.delete("/{run_id}")
def remove_run(
    engine: TheEngine,
    run_id: TheRun,
    runs_dir: RunsDir,
    what: Annotated[Literal["run", "trajectory"], Query()] = "run",
) -> Removed:
    """Remove a run, or only its trajectory: its scores stay readable then."""
    return engine.remove(Path(runs_dir), run_id, what)


@router.post("/{run_id}/pause", status_code=202)
def pause_run(engine: TheEngine, run_id: TheRun, runs_dir: RunsDir) -> RunView:
    """Have a run finish its step, save and stop."""
    return engine.act(Path(runs_dir), run_id, "pause")


@router.post("/{run_id}/resume", status_code=202)
def resume_run(engine: TheEngine, run_id: TheRun, runs_dir: RunsDir) -> RunView:
    """Have a run go on from what it saved."""
    return engine.act(Path(runs_dir), run_id, "resume")


@router.post("/{run_id}/cancel", status_code=202)
def cancel_run(engine: TheEngine, run_id: TheRun, runs_dir: RunsDir) -> RunView:
    """Have a run end now."""
    return engine.act(Path(runs_dir), run_id, "cancel")


@router.post("/{run_id}/attributions", status_code=201)
def submit_attribution(
    engine: TheEngine, run_id: TheRun, runs_dir: RunsDir, wanted: SubmitAttribution
) -> RunView:
    """Ask a run's kept trajectory; the last of the jobs is the new one."""
    return engine.attribute(Path(runs_dir), run_id, wanted)


@router.post("/{run_id}/validations", status_code=201)
def submit_validation(
    engine: TheEngine, run_id: TheRun, runs_dir: RunsDir, wanted: SubmitValidation
) -> RunView:
    """Check an attribution against retrainings; the last of the jobs is the new one."""
    return engine.validate(Path(runs_dir), run_id, wanted)


@router.get("/{run_id}/wait")
async def wait_for_run(
    serving: TheServing,
    run_id: TheRun,
    runs_dir: RunsDir,
    timeout: Annotated[float, Query(ge=0, le=LONGEST_WAIT)] = 25.0,
    job: Annotated[JobNumber | SkipJsonSchema[None], Query()] = None,
) -> RunView:
    """A run once a job of it, or every one, is settled; as it is then, if that takes too long."""
    deadline, again = time.monotonic() + timeout, Due(LATEST_SECONDS)
    changes: int | None = None
    view: RunView | None = None
    while True:
        if again() or serving.engine.changes() != changes:
            changes = serving.engine.changes()
            view = await run_in_threadpool(serving.engine.run, Path(runs_dir), run_id)
        assert view is not None
        if job is not None and all(one.number != job for one in view.jobs):
            raise NotFoundError(f"run {run_id} has no job {job}; it has {len(view.jobs)}")
        left = deadline - time.monotonic()
        if is_settled(view, job) or left <= 0 or serving.ending.is_set():
            return view
        await serving.pause(min(left, TICK_SECONDS))
