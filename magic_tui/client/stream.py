"""The events of a run as they come, through every end and restart of the engine; and its logs.

Each record of the journal comes exactly once and in order: its number is the cursor that a new
connection goes on from.
"""

import contextlib
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2

from engine.runs.errors import UnreachableError
from engine.runs.states import View
from magic_tui.client.engine import Engine, RefusedError, refusal
from magic_tui.client.http import Answer
from magic_tui.client.start import BUSY

SILENCE_SECONDS = 30.0
"""A stream that follows says something every two seconds; this much silence is a dead engine."""
_CONNECT_SECONDS = 10.0
_MOST_FAILURES = 10
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Message:
    """One thing that a stream says."""

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
        before = cursor.heard
        with contextlib.suppress(httpx2.TransportError):
            for message in _connected(engine, run["id"], cursor):
                yield message
                if message.kind == "end":
                    return
        failures = failures + 1 if cursor.heard == before else 0
        if failures == _MOST_FAILURES:
            raise UnreachableError(
                "the engine keeps breaking off; see its log: magic engine status"
            )
        if not engine.reconnect():
            yield Message("waiting", {})
            while not engine.reconnect():
                time.sleep(_PAUSE_SECONDS)
        elif failures:
            time.sleep(_PAUSE_SECONDS)


def read_logs(engine: Engine, run: View, follow: bool) -> Iterator[str]:
    """The lines of a run's log files, and with ``follow`` those to come.

    Raises:
        RefusedError: if there is no such run.
        UnreachableError: if the engine ends meanwhile.
    """
    query = engine.query({"follow": "true" if follow else "false"})
    timeout = httpx2.Timeout(_CONNECT_SECONDS, read=None)
    path = f"/v1/runs/{run['id']}/logs"
    try:
        for left in reversed(range(_MOST_FAILURES)):
            with (
                _http(engine) as client,
                client.stream("GET", path, params=query, timeout=timeout) as answer,
            ):
                if answer.status_code != BUSY or not left:
                    _check(answer)
                    yield from answer.iter_lines()
                    return
            time.sleep(_PAUSE_SECONDS)
    except httpx2.TransportError:
        raise UnreachableError(
            f"the engine ended while it was sending; the logs are files in {run['path']}/logs"
        ) from None


@dataclass
class _Cursor:
    """The number of the last record that was passed on, and how much was heard at all."""

    last: int
    heard: int = 0


def _connected(engine: Engine, run_id: str, cursor: _Cursor) -> Iterator[Message]:
    """What one connection says; records that were passed on before are left out."""
    headers = {} if cursor.last < 0 else {"Last-Event-ID": str(cursor.last)}
    with (
        _http(engine) as client,
        client.sse(
            f"/v1/runs/{run_id}/events",
            params=engine.query({"follow": "true"}),
            headers=headers,
            timeout=httpx2.Timeout(_CONNECT_SECONDS, read=SILENCE_SECONDS),
            max_event_size=None,
        ) as source,
    ):
        if source.response.status_code == BUSY:
            return
        _check(source.response)
        for event in source:
            cursor.heard += 1
            data: dict[str, Any] = dict(event.json())  # type: ignore[call-overload]
            if event.event == "problem":
                raise RefusedError(data["message"], data["exit_code"])
            if event.event == "reset":
                cursor.last = -1
                yield Message("reset", {})
            elif "seq" not in data:
                yield Message(event.event, data)
            elif data["seq"] == cursor.last + 1:
                cursor.last += 1
                yield Message("record", data)
            elif data["seq"] > cursor.last:
                # Something is missing: ask again from where it was.
                return


def _check(response: httpx2.Response) -> None:
    if response.is_error:
        raise refusal(Answer(response.status_code, response.read()))


def _http(engine: Engine) -> httpx2.Client:
    # No TLS runs over the socket, so no certificates need be read, and no proxy is asked.
    transport = httpx2.HTTPTransport(uds=str(engine.socket), verify=False)
    return httpx2.Client(transport=transport, base_url="http://engine", trust_env=False)
