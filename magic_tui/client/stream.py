"""The events of a run across restarts of the engine, and the run's logs.

Each record of the journal arrives exactly once and in order: a new connection continues after the
sequence number of the last record.
"""

import contextlib
import json
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from engine.runs.errors import UnreachableError
from engine.runs.states import View
from magic_tui.client.engine import Engine, RefusedError, refusal
from magic_tui.client.engine_process import BUSY
from magic_tui.client.http import DisconnectedError, Request, Response, Stream, open_stream

SILENCE_SECONDS = 30.0
"""The engine sends an event every two seconds; after this much silence it counts as dead."""
_CONNECT_SECONDS = 10.0
_MOST_FAILURES = 10
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Message:
    """One event of a stream."""

    kind: str
    """``record``, ``state``, ``telemetry``, ``reset``, ``end``, or ``waiting`` for an engine."""
    data: dict[str, Any]


def follow_events(engine: Engine, run: View, after: int = -1) -> Generator[Message]:
    """The records of a run's journal with a number above ``after``, and its states, to its end.

    Raises:
        RefusedError: if there is no such run, or its journal cannot be read.
        UnreachableError: if no engine can be reached any more.
    """
    cursor = _Cursor(after)
    failures = 0
    while True:
        before = cursor.events
        with contextlib.suppress(DisconnectedError):
            for message in _connected(engine, run["id"], cursor):
                yield message
                if message.kind == "end":
                    return
        failures = failures + 1 if cursor.events == before else 0
        if failures == _MOST_FAILURES:
            raise UnreachableError(
                f"the engine closed {failures} streams without an event; see its log: magic "
                "engine status"
            )
        if not engine.reconnect():
            yield Message("waiting", {})
            while not engine.reconnect():
                time.sleep(_PAUSE_SECONDS)
        elif failures:
            time.sleep(_PAUSE_SECONDS)


def read_logs(engine: Engine, run: View, follow: bool) -> Iterator[str]:
    """The lines of a run's log files, with ``follow`` also those written later.

    Raises:
        RefusedError: if there is no such run.
        UnreachableError: if the engine ends meanwhile.
    """
    query = engine.query({"follow": "true" if follow else "false"})
    path = f"/v1/runs/{run['id']}/logs"
    request = Request("GET", path, query, timeout=_CONNECT_SECONDS)
    try:
        for left in reversed(range(_MOST_FAILURES)):
            with open_stream(engine.socket, request, read_timeout=None) as stream:
                if stream.status != BUSY or not left:
                    _check(stream)
                    for line in stream.lines:
                        # Progress bars end their lines with a carriage return.
                        yield from line.splitlines() or [""]
                    return
            time.sleep(_PAUSE_SECONDS)
    except DisconnectedError:
        raise UnreachableError(
            f"the engine ended while it was sending; the logs are files in {run['path']}/logs"
        ) from None


@dataclass
class _Cursor:
    """The number of the last record passed on, and the count of all events."""

    last: int
    events: int = 0


def _connected(engine: Engine, run_id: str, cursor: _Cursor) -> Iterator[Message]:
    """The messages of one connection, without records that were passed on before."""
    headers = {} if cursor.last < 0 else {"Last-Event-ID": str(cursor.last)}
    path, query = f"/v1/runs/{run_id}/events", engine.query({"follow": "true"})
    request = Request("GET", path, query, timeout=_CONNECT_SECONDS, headers=headers)
    with open_stream(engine.socket, request, read_timeout=SILENCE_SECONDS) as stream:
        if stream.status == BUSY:
            return
        _check(stream)
        for kind, data in _events(stream.lines):
            cursor.events += 1
            if kind == "problem":
                raise RefusedError(data["message"], data["exit_code"])
            if kind == "reset":
                cursor.last = -1
                yield Message("reset", {})
            elif "seq" not in data:
                yield Message(kind, data)
            elif data["seq"] == cursor.last + 1:
                cursor.last += 1
                yield Message("record", data)
            elif data["seq"] > cursor.last:
                # A record is missing: connect again after the last one.
                return


def _events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Server-sent events: kind and data. Ids are left out, because records contain their number."""
    kind, data = "message", list[str]()
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield kind, json.loads("\n".join(data))
            kind, data = "message", []
        elif name == "event":
            kind = value
        elif name == "data":
            data.append(value)


def _check(stream: Stream) -> None:
    if stream.status >= 400:
        raise refusal(Response(stream.status, "\n".join(stream.lines).encode()))
