"""Streams of events and logs: complete, resumable, and ended when the run is settled."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import httpx2
import pytest

from engine.runs.api_schema import EngineView, Problem, RunList, RunView, Telemetry
from engine.runs.journal import JournalWriter
from engine.runs.states import RunState
from tests.daemon_http.conftest import RUN, Daemon, add_events, read_answer, within
from tests.fake_engine import VIEW, a_view, put


@dataclass
class Told:
    """One event as a client gets it."""

    id: int | None
    event: str
    data: Any


def parsed(lines: Iterator[str]) -> Iterator[Told]:
    """The events in a stream's lines, strictly: nothing may be there that is no event."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            assert name in ("id", "event", "data") and name not in fields
            fields[name] = value
            continue
        number = int(fields["id"]) if "id" in fields else None
        yield Told(number, fields["event"], json.loads(fields["data"]))
        fields = {}
    assert not fields


@contextmanager
def events(
    client: httpx2.Client, daemon: Daemon, last: int | str | None = None, **params: Any
) -> Iterator[Iterator[Told]]:
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    params = {"runs_dir": str(daemon.runs), **params}
    path = f"/v1/runs/{RUN}/events"
    with client.stream("GET", path, params=params, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield parsed(answer.iter_lines())


def ids(received: Iterator[Told]) -> list[int]:
    return [one.id for one in received if one.id is not None]


def test_a_journal_is_sent_unchanged(client: httpx2.Client, daemon: Daemon) -> None:
    folder = daemon.make_run(RunState.RUNNING)
    writer = JournalWriter(folder / "events.jsonl")
    writer.append("started", text="line\nbreak\r\n\u2028 ü \x1b[31m", pid=1)
    writer.append("train_step", step=0)
    writer.close()
    with events(client, daemon) as received:
        first, second = received
    assert (first.id, first.event, second.id, second.event) == (0, "started", 1, "train_step")
    assert first.data["text"] == "line\nbreak\r\n\u2028 ü \x1b[31m"
    assert {"seq", "time", "event", "pid"} <= set(first.data) and "crc" not in first.data


def test_without_a_journal_there_is_nothing(client: httpx2.Client, daemon: Daemon) -> None:
    daemon.make_run(RunState.QUEUED)
    (daemon.runs / RUN / "events.jsonl").unlink()
    with events(client, daemon) as received:
        assert list(received) == []


@pytest.mark.parametrize("after", [0, 1, 499, 998, 999])
def test_it_is_resumed_behind_an_event(client: httpx2.Client, daemon: Daemon, after: int) -> None:
    daemon.make_run(RunState.RUNNING, events=1000)
    with events(client, daemon, last=after) as received:
        assert ids(received) == list(range(after + 1, 1000))
    with events(client, daemon, after=after) as received:
        assert ids(received) == list(range(after + 1, 1000))
    with events(client, daemon, last=after, after=7) as received:
        assert ids(received) == list(range(after + 1, 1000))


@pytest.mark.parametrize("after", [10, 10**9, 10**15 - 1])
def test_a_cursor_beyond_the_journal_begins_anew(
    client: httpx2.Client, daemon: Daemon, after: int
) -> None:
    daemon.make_run(RunState.RUNNING, events=10)
    with events(client, daemon, last=after) as stream:
        received = list(stream)
    assert (received[0].event, received[0].id, received[0].data) == ("reset", None, {"next": 0})
    assert ids(iter(received)) == list(range(10))


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "1e3", "9" * 16, "9" * 5000, "٣", "1 2", " "])
def test_what_is_no_cursor_is_refused(daemon: Daemon, last: str) -> None:
    daemon.make_run(RunState.RUNNING, events=10)
    with daemon.connect() as connection:
        path = f"/v1/runs/{RUN}/events?runs_dir={daemon.runs}"
        head = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nLast-Event-ID: {last}\r\n"
        connection.sendall(head.encode() + b"\r\n")
        status, body = read_answer(connection)
    assert status == 400
    assert Problem.model_validate_json(body).exit_code == 2


def test_nul_in_a_header_is_refused(daemon: Daemon) -> None:
    with daemon.connect() as connection:
        connection.sendall(b"GET /v1/engine HTTP/1.1\r\nHost: a\r\nLast-Event-ID: 1\x002\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_following_a_run_to_its_end(client: httpx2.Client, daemon: Daemon) -> None:
    folder = daemon.make_run(RunState.RUNNING, events=2)

    def finish() -> None:
        add_events(folder, 3)
        put(a_view(folder, RunState.PAUSING))
        within(1.0, lambda: False)
        add_events(folder, 500, text="x" * 1000)
        put(a_view(folder, RunState.PAUSED))

    later = threading.Timer(0.3, finish)
    later.start()
    with events(client, daemon, follow="true") as stream:
        received = list(stream)
    later.join()
    assert ids(iter(received)) == list(range(505))
    assert received[0].event == "state" and received[0].data["state"] == "running"
    states = [one.data["state"] for one in received if one.event == "state"]
    assert states == ["running", "pausing", "paused"]
    assert received[-1].event == "end" and received[-1].id is None
    assert RunView.model_validate(received[-1].data).state == RunState.PAUSED
    telemetry = [one for one in received if one.event == "telemetry"]
    assert telemetry and all(one.id is None for one in telemetry)
    assert Telemetry.model_validate(telemetry[0].data).disk_free > 0  # type: ignore[operator]


def test_the_stream_of_a_settled_run_ends(client: httpx2.Client, daemon: Daemon) -> None:
    daemon.make_run(RunState.SUCCEEDED, RunState.CANCELLED, events=5)
    with events(client, daemon, follow="true") as stream:
        received = list(stream)
    assert ids(iter(received)) == list(range(5))
    assert [one.event for one in received if one.id is None] == ["state", "telemetry", "end"]
    with events(client, daemon, follow="true", last=4) as stream:
        assert ids(stream) == []


def test_nothing_is_lost_or_sent_twice_over_restarts(
    new_daemon: Callable[[], Daemon],
) -> None:
    """The journal grows all the time, and the engine dies in the middle of the stream."""
    daemon = new_daemon()
    folder = daemon.make_run(RunState.RUNNING)
    done = threading.Event()

    def write() -> None:
        writer = JournalWriter(folder / "events.jsonl")
        deadline = time.monotonic() + 60.0
        while not done.wait(0.002) and time.monotonic() < deadline:
            writer.append("train_step", step=0, text="x" * 200)
        writer.close()

    thread = threading.Thread(target=write)
    thread.start()
    seen: list[int] = []
    for number in (signal.SIGKILL, signal.SIGTERM, None):
        daemon.start()
        last = seen[-1] if seen else None
        with (
            daemon.client() as client,
            events(client, daemon, follow="true", last=last) as received,
        ):
            seen += islice((one.id for one in received if one.id is not None), 400)
            if number is not None:
                daemon.end(number)
                try:
                    seen += ids(received)
                except httpx2.HTTPError:
                    assert number == signal.SIGKILL
            else:
                done.set()
                thread.join()
                put(a_view(folder, RunState.SUCCEEDED))
                seen += ids(received)
    assert seen == list(range((folder / "events.jsonl").read_bytes().count(b"\n")))
    assert len(seen) > 1200


def test_a_damaged_journal_is_sent_as_a_problem(client: httpx2.Client, daemon: Daemon) -> None:
    folder = daemon.make_run(RunState.RUNNING, events=1000)
    journal = folder / "events.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"step":900', b'"step":901'))
    with events(client, daemon, follow="true") as stream:
        received = list(stream)
    assert received[-1].event == "problem"
    assert "line 901 is damaged" in received[-1].data["message"]
    assert ids(iter(received)) == list(range(len(ids(iter(received)))))


def test_a_journal_that_shrinks_begins_anew(client: httpx2.Client, daemon: Daemon) -> None:
    folder = daemon.make_run(RunState.RUNNING, events=10)
    with events(client, daemon, follow="true") as received:
        assert ids(islice((one for one in received if one.id is not None), 10)) == list(range(10))
        with open(folder / "events.jsonl", "rb+") as file:
            file.truncate(file.read().index(b"\n") + 1)
        assert any(one.event == "reset" for one in received)
        assert ids(islice((one for one in received if one.id is not None), 1)) == [0]


def test_a_run_that_is_removed_ends_its_stream(client: httpx2.Client, daemon: Daemon) -> None:
    folder = daemon.make_run(RunState.RUNNING, events=1)
    with events(client, daemon, follow="true") as received:
        assert any(one.id == 0 for one in received)
        (folder / VIEW).unlink()
        *_, last = received
    assert (last.event, last.data["exit_code"]) == ("problem", 2)
    assert "there is no run" in last.data["message"]


def test_no_stream_of_what_is_not_there(client: httpx2.Client, daemon: Daemon) -> None:
    for what in ("events", "logs"):
        params = {"runs_dir": str(daemon.runs), "follow": "true"}
        answer = client.get(f"/v1/runs/{RUN}/{what}", params=params)
        assert (answer.status_code, answer.json()["exit_code"]) == (404, 2)


def test_the_engine_stream_reports_engine_and_runs(client: httpx2.Client, daemon: Daemon) -> None:
    folder = daemon.make_run(RunState.RUNNING)
    params = {"runs_dir": str(daemon.runs)}
    with client.stream("GET", "/v1/engine/events", params=params) as answer:
        received = parsed(answer.iter_lines())
        first, second = islice(received, 2)
        assert (first.event, second.event) == ("engine", "runs")
        assert EngineView.model_validate(first.data).pid == daemon.pid
        assert RunList.model_validate(second.data).runs[0].state == RunState.RUNNING
        put(a_view(folder, RunState.FAILED))
        states = (one.data["runs"][0]["state"] for one in received if one.event == "runs")
        assert next(states) == "failed"
    with client.stream("GET", "/v1/engine/events") as answer:
        received = parsed(answer.iter_lines())
        assert [one.event for one in islice(received, 2)] == ["engine", "engine"]  # and no runs


def test_a_quiet_stream_has_a_heartbeat(new_daemon: Callable[[], Daemon]) -> None:
    daemon = new_daemon().start(MAGIC_TEST_HEARTBEAT_SECONDS="0.3")
    daemon.make_run(RunState.RUNNING)
    params = {"runs_dir": str(daemon.runs), "follow": "true"}
    with daemon.client() as client:
        for path in (f"/v1/runs/{RUN}/events", "/v1/engine/events"):
            with client.stream("GET", path, params=params) as answer:
                lines = answer.iter_lines()
                assert len(list(islice((x for x in lines if x == ": alive"), 2))) == 2
