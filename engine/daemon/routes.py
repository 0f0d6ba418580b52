"""The routes of the HTTP interface and its application; OpenAPI at ``/v1/openapi.json``."""

import time
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Header, Query, Response
from fastapi import Path as InPath
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from engine.daemon.http_errors import PROBLEMS, add_problem_handlers
from engine.daemon.limits import Limits
from engine.daemon.serving import Serving, TheEngine, TheServing
from engine.daemon.streams import (
    LATEST_SECONDS,
    TICK_SECONDS,
    Parts,
    RunEvents,
    Timer,
    engine_events,
    guarded,
    is_settled,
    log_text,
)
from engine.runs.api_schema import (
    API_VERSION,
    AbsolutePath,
    CodeView,
    EngineView,
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
"""Seconds; to wait longer, a client repeats the request."""
_LARGEST_CURSOR = 2**53 - 1
"""The largest integer that every JSON reader represents exactly."""
RunsDir = Annotated[AbsolutePath, Query(description="The folder of the runs.")]
Selector = Annotated[str, Field(max_length=200)]
JobNumber = Annotated[int, Field(ge=1, le=9999)]
TheRun = Annotated[RunId, InPath(description="The run's id.")]
Follow = Annotated[bool, Query(description="Continue until every job is settled.")]
Number = Annotated[int, Field(ge=0, le=_LARGEST_CURSOR)]
After = Annotated[Number | SkipJsonSchema[None], Query(description="Resume after this event.")]
Digits = Annotated[str, Field(pattern=r"^[0-9]{1,15}$")]
LastEventId = Annotated[
    Digits | SkipJsonSchema[None],
    Header(description="The same; sent by a client that reconnects."),
]
OptionalRunsDir = Annotated[
    AbsolutePath | SkipJsonSchema[None], Query(description="The folder whose runs to report.")
]

about_engine = APIRouter(prefix="/v1/engine", tags=["engine"], responses=PROBLEMS)
folders = APIRouter(prefix="/v1/folders", tags=["folders"], responses=PROBLEMS)
runs = APIRouter(prefix="/v1/runs", tags=["runs"], responses=PROBLEMS)
streams = APIRouter(prefix="/v1", tags=["streams"])


def make_app(serving: Serving) -> FastAPI:
    """The application that serves an engine."""
    app = FastAPI(
        title="magic-engine",
        version=str(API_VERSION),
        description="Exact training-data attribution: queue, watch and steer runs.",
        openapi_url="/v1/openapi.json",
        # These pages load scripts from the network.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.serving = serving
    for routes in (about_engine, streams, runs, folders):
        app.include_router(routes)
    add_problem_handlers(app)
    app.add_middleware(Limits)
    return app


@about_engine.get("")
def view_engine(serving: TheServing) -> EngineView:
    """The engine and its machine."""
    return serving.fresh_view()


@about_engine.post("/stop", status_code=202)
async def stop_engine(serving: TheServing) -> dict[str, Any]:
    """Stop the engine; running jobs continue, and the next engine finds them."""
    serving.stop()
    return {}


@folders.post("/allow", status_code=202)
def allow_folder(engine: TheEngine, runs_dir: RunsDir) -> FolderView:
    """Accept that others may write in a folder of runs."""
    return FolderView(runs_dir=str(engine.allow(Path(runs_dir))), jobs=0)


@folders.post("/forget", status_code=202)
def forget_folder(engine: TheEngine, runs_dir: RunsDir) -> FolderView:
    """Dequeue all jobs of a folder of runs."""
    return FolderView(runs_dir=runs_dir, jobs=engine.forget(Path(runs_dir)))


@runs.get("")
def list_runs(engine: TheEngine, runs_dir: RunsDir) -> RunList:
    """All runs in a folder, oldest first."""
    return RunList(runs=engine.runs(Path(runs_dir)))


@runs.post(
    "",
    status_code=201,
    responses={200: {"model": RunView, "description": "It existed already"}},
)
def submit_run(engine: TheEngine, submission: SubmitRun, response: Response) -> RunView:
    """Queue a run. The answer means that its folder is on disk; a repetition changes nothing."""
    view, created = engine.submit(submission)
    response.status_code = 201 if created else 200
    return view


@runs.get("/find")
def find_run(
    engine: TheEngine,
    runs_dir: RunsDir,
    selector: Annotated[Selector | SkipJsonSchema[None], Query()] = None,
) -> RunView:
    """The run of an id, a unique prefix of one or a name; the latest without ``selector``."""
    return engine.find(Path(runs_dir), selector)


@runs.get("/{run_id}/code")
def code_of_run(engine: TheEngine, run_id: TheRun, runs_dir: RunsDir) -> CodeView:
    """The code that a run loads, and whether this engine may load it."""
    return engine.code(Path(runs_dir), run_id)


@runs.post("/{run_id}/code", status_code=202)
def accept_code(engine: TheEngine, run_id: TheRun, runs_dir: RunsDir) -> CodeView:
    """Accept the present code of a run."""
    return engine.code(Path(runs_dir), run_id, accept=True)


@runs.get("/{run_id}")
def one_run(engine: TheEngine, run_id: TheRun, runs_dir: RunsDir) -> RunView:
    """One run: its state, progress and size."""
    return engine.run(Path(runs_dir), run_id)


@runs.delete("/{run_id}")
def remove_run(
    engine: TheEngine,
    run_id: TheRun,
    runs_dir: RunsDir,
    what: Annotated[Literal["run", "trajectory"], Query()] = "run",
) -> Removed:
    """Remove a run, or only its trajectory: its scores remain readable then."""
    return engine.remove(Path(runs_dir), run_id, what)


@runs.post("/{run_id}/pause", status_code=202)
def pause_run(engine: TheEngine, run_id: TheRun, runs_dir: RunsDir) -> RunView:
    """Finish the current step of a run, save and stop."""
    return engine.act(Path(runs_dir), run_id, "pause")


@runs.post("/{run_id}/resume", status_code=202)
def resume_run(engine: TheEngine, run_id: TheRun, runs_dir: RunsDir) -> RunView:
    """Continue a run from its last checkpoint."""
    return engine.act(Path(runs_dir), run_id, "resume")


@runs.post("/{run_id}/cancel", status_code=202)
def cancel_run(engine: TheEngine, run_id: TheRun, runs_dir: RunsDir) -> RunView:
    """Stop a run now, without saving."""
    return engine.act(Path(runs_dir), run_id, "cancel")


@runs.post("/{run_id}/attributions", status_code=201)
def submit_attribution(
    engine: TheEngine, run_id: TheRun, runs_dir: RunsDir, submission: SubmitAttribution
) -> RunView:
    """Queue an attribution of queries; the last of the jobs is the new one."""
    return engine.attribute(Path(runs_dir), run_id, submission)


@runs.post("/{run_id}/validations", status_code=201)
def submit_validation(
    engine: TheEngine, run_id: TheRun, runs_dir: RunsDir, submission: SubmitValidation
) -> RunView:
    """Queue a validation of an attribution; the last of the jobs is the new one."""
    return engine.validate(Path(runs_dir), run_id, submission)


@runs.get("/{run_id}/wait")
async def wait_for_run(
    serving: TheServing,
    run_id: TheRun,
    runs_dir: RunsDir,
    timeout: Annotated[float, Query(ge=0, le=LONGEST_WAIT)] = 25.0,
    job: Annotated[JobNumber | SkipJsonSchema[None], Query()] = None,
) -> RunView:
    """A run once one of its jobs, or all, are settled; its present state after ``timeout`` s."""
    deadline, is_due = time.monotonic() + timeout, Timer(LATEST_SECONDS)
    changes: int | None = None
    view: RunView | None = None
    while True:
        if is_due() or serving.engine.changes() != changes:
            changes = serving.engine.changes()
            view = await run_in_threadpool(serving.engine.run, Path(runs_dir), run_id)
        assert view is not None
        if job is not None and all(one.number != job for one in view.jobs):
            raise NotFoundError(f"run {run_id} has no job {job}; it has {len(view.jobs)}")
        left = deadline - time.monotonic()
        if is_settled(view, job) or left <= 0 or serving.ending.is_set():
            return view
        await serving.pause(min(left, TICK_SECONDS))


class Stream(StreamingResponse):
    """A response in parts that closes its files as soon as the client disconnects."""

    def __init__(self, parts: Parts, media_type: str) -> None:
        """Send ``parts`` in order."""
        super().__init__(parts, media_type=media_type, headers={"Cache-Control": "no-store"})
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond."""
        async with aclosing(self._parts):
            await super().__call__(scope, receive, send)


_TEXT = {"type": "string"}
_EVENT = {
    "type": "object",
    "description": "One server-sent event; its data is JSON.",
    "properties": {"id": {**_TEXT, "pattern": "^[0-9]+$"}, "event": _TEXT, "data": _TEXT},
    "required": ["event", "data"],
}


def _streamed(media_type: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    answer = {"description": description, "content": {media_type: {"schema": schema}}}
    return {"status_code": 200, "response_class": Stream, "responses": {**PROBLEMS, 200: answer}}


@streams.get(
    "/engine/events",
    **_streamed("text/event-stream", _EVENT, "Events engine and runs: the latest values"),
)
async def stream_engine(serving: TheServing, runs_dir: OptionalRunsDir = None) -> Stream:
    """The engine every two seconds, and the runs of a folder whenever one of them changed."""
    folder = None if runs_dir is None else Path(runs_dir)
    return _events(engine_events(serving, folder))


@streams.get(
    "/runs/{run_id}/events",
    **_streamed("text/event-stream", _EVENT, "A run's journal, each event with its number as id"),
)
async def stream_run(
    serving: TheServing,
    run_id: TheRun,
    runs_dir: RunsDir,
    follow: Follow = False,
    after: After = None,
    last_event_id: LastEventId = None,
) -> Stream:
    """The events of a run; with ``follow`` also state and telemetry, until an event ``end``."""
    await run_in_threadpool(serving.engine.run, Path(runs_dir), run_id)
    cursor = after if last_event_id is None else int(last_event_id)
    return _events(RunEvents(serving, Path(runs_dir), run_id).stream(cursor, follow))


@streams.get(
    "/runs/{run_id}/logs", **_streamed("text/plain", _TEXT, "Output of the run's processes")
)
async def stream_logs(
    serving: TheServing, run_id: TheRun, runs_dir: RunsDir, follow: Follow = False
) -> Stream:
    """The output of a run's processes, attempt by attempt."""
    await run_in_threadpool(serving.engine.run, Path(runs_dir), run_id)
    return Stream(log_text(serving, Path(runs_dir), run_id, follow), "text/plain")


def _events(parts: Parts) -> Stream:
    return Stream(guarded(parts), "text/event-stream")
