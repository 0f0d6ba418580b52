"""Server-sent events and logs. Each stream is a cursor into files; nothing is queued for it.

The next part is read only when the client has taken the one before it, so a client that does not
read costs no memory and delays no other. Events of a journal have its sequence numbers as ids,
which are the same for every engine that serves the run; the latest values (state, telemetry) have
no ids.
"""

import asyncio
import json
import logging
import os
import stat
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from engine.daemon.http_errors import problem_of
from engine.daemon.overview import telemetry
from engine.daemon.serving import Serving
from engine.runs.api_schema import RunList, RunView
from engine.runs.journal import JournalReader
from engine.runs.listing import run_of_id

TICK_SECONDS = 0.25
LATEST_SECONDS = 2.0
"""Seconds between two latest values, such as memory in use."""
HEARTBEAT_SECONDS = 15.0
PART_BYTES = 16 * 1024
"""Bytes read from a file at once."""
_PARTS_PER_TURN = 64
_RESET = b'event: reset\ndata: {"next": 0}\n\n'
_HEARTBEAT = b": alive\n\n"

Parts = AsyncGenerator[bytes, None]
"""A stream, part by part."""

_log = logging.getLogger(__name__)


class Timer:
    """A timer that is due at a fixed interval."""

    def __init__(self, seconds: float, at_once: bool = True) -> None:
        """Be due for the first time at once, or after ``seconds``."""
        self._seconds = seconds
        self._next = 0.0 if at_once else time.monotonic() + seconds

    def __call__(self) -> bool:
        """Whether it is due; if so, the next period starts."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


class LatestValue:
    """A value that is read only after a change, and sent only if it differs from the last one."""

    def __init__(self, serving: Serving, read: Callable[[], BaseModel]) -> None:
        """Read the value with ``read``, which may read files."""
        self._serving, self._read = serving, read
        self._changes: int | None = None
        self._sent = ""
        self._is_due = Timer(LATEST_SECONDS)

    async def update(self, event: str) -> bytes:
        """An event with the new value; empty if it is unchanged."""
        changes = self._serving.engine.changes()
        if not self._is_due() and changes == self._changes:
            return b""
        self._changes = changes
        text = await run_in_threadpool(lambda: self._read().model_dump_json())
        if text == self._sent:
            return b""
        self._sent = text
        return sse(event, text)


async def engine_events(serving: Serving, runs_dir: Path | None) -> Parts:
    """The engine every two seconds, and the runs of a folder whenever one of them changed."""
    runs, is_due, heartbeat = None, Timer(LATEST_SECONDS), Timer(HEARTBEAT_SECONDS, at_once=False)
    if runs_dir is not None:
        runs = LatestValue(serving, lambda: RunList(runs=serving.engine.runs(runs_dir)))
    while not serving.ending.is_set():
        if is_due():
            view = await run_in_threadpool(serving.shared_view)
            yield sse("engine", view.model_dump_json())
        if runs is not None and (update := await runs.update("runs")):
            yield update
        if heartbeat():
            yield _HEARTBEAT
        await serving.pause(2 * TICK_SECONDS)


class RunEvents:
    """The events of one run."""

    def __init__(self, serving: Serving, runs_dir: Path, run_id: str) -> None:
        """Read the journal of an existing run."""
        self._serving, self._runs_dir, self._run_id = serving, runs_dir, run_id
        self._reader = JournalReader(run_of_id(runs_dir, run_id).events_file)
        self._view: RunView | None = None

    async def stream(self, after: int | None, follow: bool) -> Parts:
        """The records after number ``after``; with ``follow`` until every job is settled."""
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
        while part := await run_in_threadpool(self._read_part):
            yield part

    async def _follow(self) -> Parts:
        state = LatestValue(self._serving, self._read_view)
        telemetry_due = Timer(LATEST_SECONDS)
        heartbeat = Timer(HEARTBEAT_SECONDS, at_once=False)
        while not self._serving.ending.is_set():
            if update := await state.update("state"):
                yield update
            # Tested before the journal is read to its end, so that no record is missed.
            settled = self._is_settled()
            part = b""
            for _ in range(_PARTS_PER_TURN):
                if not (part := await run_in_threadpool(self._read_part)):
                    break
                yield part
            if telemetry_due():
                yield await run_in_threadpool(self._telemetry)
            if heartbeat():
                yield _HEARTBEAT
            if part:
                continue
            if settled and self._view is not None:
                yield sse("end", self._view.model_dump_json())
                return
            await self._serving.pause(TICK_SECONDS)

    def _read_view(self) -> RunView:
        self._view = self._serving.engine.run(self._runs_dir, self._run_id)
        return self._view

    def _is_settled(self) -> bool:
        return self._view is not None and is_settled(self._view)

    def _read_part(self) -> bytes:
        records = self._reader.poll(PART_BYTES)
        if not records and self._reader.has_shrunk():
            self._reader.skip_to(0)
            return _RESET
        return b"".join(
            sse(record["event"], json.dumps(record), record["seq"]) for record in records
        )

    def _telemetry(self) -> bytes:
        figures = telemetry(self._serving.shared_view(), self._runs_dir)
        return sse("telemetry", figures.model_dump_json())


class LogCursor:
    """A position in the log files of a folder, in the order of their names.

    A file that appears late is read even if its name sorts before the current one.
    """

    def __init__(self, folder: Path) -> None:
        """Begin with the first file of ``folder``, which need not exist yet."""
        self._folder = folder
        self._read: set[str] = set()
        self._file: int | None = None

    def read(self) -> bytes:
        """The next bytes; none if there are no more yet."""
        while True:
            if self._file is not None and (part := os.read(self._file, PART_BYTES)):
                return part
            if not self._open_next():
                return b""

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open_next(self) -> bool:
        try:
            names = sorted(set(os.listdir(self._folder)) - self._read)
        except FileNotFoundError:
            return False
        for name in names:
            # Without O_NONBLOCK, opening a pipe would wait for its writer.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            try:
                file = os.open(self._folder / name, flags)
            except OSError:
                continue
            if stat.S_ISREG(os.fstat(file).st_mode):
                self.close()
                self._read.add(name)
                self._file = file
                return True
            os.close(file)
        return False


async def log_text(serving: Serving, runs_dir: Path, run_id: str, follow: bool) -> Parts:
    """The logs of an existing run; with ``follow`` until every job is settled."""
    cursor = LogCursor(run_of_id(runs_dir, run_id).logs)
    try:
        while not serving.ending.is_set():
            # Tested before the files are read to their end, so that no text is missed.
            settled = not follow or is_settled(
                await run_in_threadpool(serving.engine.run, runs_dir, run_id)
            )
            while part := await run_in_threadpool(cursor.read):
                yield part
            if settled:
                return
            await serving.pause(2 * TICK_SECONDS)
    except Exception:
        # The status was sent already, so the text only ends early.
        _log.exception("the logs of run %s cannot be read further", run_id)
    finally:
        cursor.close()


async def guarded(stream: Parts) -> Parts:
    """A stream of events whose error becomes its last event, ``problem``."""
    try:
        async with aclosing(stream) as parts:
            async for part in parts:
                yield part
                # Sending does not wait while the socket's buffer has room; let other tasks run.
                await asyncio.sleep(0)
    except Exception as error:
        status, problem = problem_of(error)
        if status == 500:
            _log.error("a stream of events failed", exc_info=error)
        yield sse("problem", problem.model_dump_json())


def is_settled(view: RunView, number: int | None = None) -> bool:
    """Whether all jobs of a run, or job ``number``, are settled."""
    jobs = [job for job in view.jobs if number is None or job.number == number]
    return all(job.state.settled for job in jobs)


def sse(event: str, data: str, number: int | None = None) -> bytes:
    """One server-sent event; ``data`` is JSON without line breaks."""
    name = event.replace("\r", " ").replace("\n", " ")
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {name}\ndata: {data}\n\n".encode("utf-8", "replace")
