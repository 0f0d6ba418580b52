"""Server-sent events and logs: each stream is a cursor into files, and nothing is queued for it.

The next piece is read only when the one before it has been taken, so a client that does not read
costs no memory and holds up nobody. Events of a journal carry its numbers as their ids, which mean
the same to every engine that ever serves the run; what is only the latest value has none.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from engine.daemon.http_errors import problem_of
from engine.daemon.serving import Serving
from engine.daemon.telemetry import telemetry
from engine.runs.api_schema import RunList, RunView
from engine.runs.journal import JournalReader
from engine.runs.listing import run_of_id

TICK_SECONDS = 0.25
LATEST_SECONDS = 2.0
"""Between two latest values, such as those of memory."""
HEARTBEAT_SECONDS = 15.0
PIECE = 16 * 1024
"""Bytes read from a file at once."""
_PIECES_A_TURN = 64
_RESET = b'event: reset\ndata: {"next": 0}\n\n'
_HEARTBEAT = b": alive\n\n"

Parts = AsyncGenerator[bytes, None]
"""A stream, piece by piece."""

_log = logging.getLogger(__name__)


class Due:
    """Says when it is time again."""

    def __init__(self, seconds: float, at_once: bool = True) -> None:
        """Every so many seconds, the first time at once or after them."""
        self._seconds = seconds
        self._next = 0.0 if at_once else time.monotonic() + seconds

    def __call__(self) -> bool:
        """Whether it is, and starts to wait anew if so."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


class Changing:
    """A value that is asked for only when something changed, and told only when it did."""

    def __init__(self, serving: Serving, ask: Callable[[], BaseModel]) -> None:
        """``ask`` gives the value; it may read files."""
        self._serving, self._ask = serving, ask
        self._changes: int | None = None
        self._told = ""
        self._again = Due(LATEST_SECONDS)

    async def news(self, event: str) -> bytes:
        """The event that tells the new value; empty if it is still the same."""
        changes = self._serving.engine.changes()
        if not self._again() and changes == self._changes:
            return b""
        self._changes = changes
        text = await run_in_threadpool(lambda: self._ask().model_dump_json())
        if text == self._told:
            return b""
        self._told = text
        return sse(event, text)


async def engine_events(serving: Serving, runs_dir: Path | None) -> Parts:
    """The engine every two seconds, and the runs of a folder whenever one of them changed."""
    runs, latest, heartbeat = None, Due(LATEST_SECONDS), Due(HEARTBEAT_SECONDS, at_once=False)
    if runs_dir is not None:
        runs = Changing(serving, lambda: RunList(runs=serving.engine.runs(runs_dir)))
    while not serving.ending.is_set():
        if latest():
            view = await run_in_threadpool(serving.shared_view)
            yield sse("engine", view.model_dump_json())
        if runs is not None and (news := await runs.news("runs")):
            yield news
        if heartbeat():
            yield _HEARTBEAT
        await serving.pause(2 * TICK_SECONDS)


class RunEvents:
    """The events of one run."""

    def __init__(self, serving: Serving, runs_dir: Path, run_id: str) -> None:
        """Read the journal of a run that is there."""
        self._serving, self._runs_dir, self._run_id = serving, runs_dir, run_id
        self._reader = JournalReader(run_of_id(runs_dir, run_id).events_file)
        self._view: RunView | None = None

    async def stream(self, after: int | None, follow: bool) -> Parts:
        """From the record behind ``after`` on; with ``follow`` until every job is settled."""
        try:
            start = 0 if after is None else after + 1
            if not await run_in_threadpool(self._reader.skip_to, start):
                yield _RESET
            async with aclosing(self._follow() if follow else self._rest()) as parts:
                async for part in parts:
                    yield part
        finally:
            self._reader.close()

    async def _rest(self) -> Parts:
        while piece := await run_in_threadpool(self._piece):
            yield piece

    async def _follow(self) -> Parts:
        state, heartbeat = Changing(self._serving, self._ask), Due(HEARTBEAT_SECONDS, at_once=False)
        latest = Due(LATEST_SECONDS)
        while not self._serving.ending.is_set():
            if news := await state.news("state"):
                yield news
            # Seen before the journal is read to its end, so that the end includes all they wrote.
            settled = self._is_settled()
            piece = b""
            for _ in range(_PIECES_A_TURN):
                if not (piece := await run_in_threadpool(self._piece)):
                    break
                yield piece
            if latest():
                yield await run_in_threadpool(self._telemetry)
            if heartbeat():
                yield _HEARTBEAT
            if piece:
                continue
            if settled and self._view is not None:
                yield sse("end", self._view.model_dump_json())
                return
            await self._serving.pause(TICK_SECONDS)

    def _ask(self) -> RunView:
        self._view = self._serving.engine.run(self._runs_dir, self._run_id)
        return self._view

    def _is_settled(self) -> bool:
        return self._view is not None and is_settled(self._view)

    def _piece(self) -> bytes:
        records = self._reader.poll(PIECE)
        if not records and self._reader.has_shrunk():
            self._reader.skip_to(0)
            return _RESET
        return b"".join(
            sse(record["event"], json.dumps(record), record["seq"]) for record in records
        )

    def _telemetry(self) -> bytes:
        return sse(
            "telemetry", telemetry(self._serving.shared_view(), self._runs_dir).model_dump_json()
        )


async def guarded(stream: Parts) -> Parts:
    """A stream of events whose failure is its last event, ``problem``."""
    try:
        async with aclosing(stream) as parts:
            async for part in parts:
                yield part
                # Sending does not wait while there is room, and others want to be served too.
                await asyncio.sleep(0)
    except Exception as error:
        status, problem = problem_of(error)
        if status == 500:
            _log.error("a stream of events failed", exc_info=error)
        yield sse("problem", problem.model_dump_json())


def is_settled(view: RunView, number: int | None = None) -> bool:
    """Whether nothing happens any more in a run, or in one of its jobs."""
    jobs = [job for job in view.jobs if number is None or job.number == number]
    return all(job.state.settled for job in jobs)


def sse(event: str, data: str, number: int | None = None) -> bytes:
    """One server-sent event; ``data`` is JSON without line breaks."""
    name = event.replace("\r", " ").replace("\n", " ")
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {name}\ndata: {data}\n\n".encode("utf-8", "replace")
