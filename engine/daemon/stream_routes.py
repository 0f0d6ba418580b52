"""The routes that answer with a stream."""

from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from engine.daemon.http_errors import PROBLEMS
from engine.daemon.log_stream import log_text
from engine.daemon.run_routes import RunsDir, TheRun
from engine.daemon.serving import TheServing
from engine.daemon.streams import Parts, RunEvents, engine_events, guarded
from engine.runs.api_schema import AbsolutePath

_LARGEST_CURSOR = 2**53 - 1
"""The largest number that every JSON reader keeps."""
Follow = Annotated[bool, Query(description="Go on until every job is settled.")]
Number = Annotated[int, Field(ge=0, le=_LARGEST_CURSOR)]
After = Annotated[Number | SkipJsonSchema[None], Query(description="Resume behind this event.")]
Digits = Annotated[str, Field(pattern=r"^[0-9]{1,15}$")]
LastEventId = Annotated[
    Digits | SkipJsonSchema[None],
    Header(description="The same; a client that reconnects sends it."),
]
Folder = Annotated[
    AbsolutePath | SkipJsonSchema[None], Query(description="The folder whose runs to tell about.")
]


class Stream(StreamingResponse):
    """An answer in pieces that lets go of its files as soon as nobody listens."""

    def __init__(self, parts: Parts, media_type: str) -> None:
        """Send ``parts`` one after the other."""
        super().__init__(parts, media_type=media_type, headers={"Cache-Control": "no-store"})
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
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


router = APIRouter(prefix="/v1", tags=["streams"])


@router.get(
    "/engine/events",
    **_streamed("text/event-stream", _EVENT, "Events engine and runs: the latest values"),
)
async def stream_engine(serving: TheServing, runs_dir: Folder = None) -> Stream:
    """The engine every two seconds, and the runs of a folder whenever one of them changed."""
    folder = None if runs_dir is None else Path(runs_dir)
    return _events(engine_events(serving, folder))


@router.get(
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
    """The events of a run; with ``follow`` also state and telemetry, up to an event ``end``."""
    await run_in_threadpool(serving.engine.run, Path(runs_dir), run_id)
    cursor = after if last_event_id is None else int(last_event_id)
    return _events(RunEvents(serving, Path(runs_dir), run_id).stream(cursor, follow))


@router.get(
    "/runs/{run_id}/logs", **_streamed("text/plain", _TEXT, "What the run's processes printed")
)
async def stream_logs(
    serving: TheServing, run_id: TheRun, runs_dir: RunsDir, follow: Follow = False
) -> Stream:
    """What the processes of a run printed, those of the first attempt first."""
    await run_in_threadpool(serving.engine.run, Path(runs_dir), run_id)
    return Stream(log_text(serving, Path(runs_dir), run_id, follow), "text/plain")


def _events(parts: Parts) -> Stream:
    return Stream(guarded(parts), "text/event-stream")
