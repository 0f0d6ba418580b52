"""Requests whose engine exits, is stopped, is suspended or is too busy."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.runs.errors import UnreachableError
from engine.runs.paths import note_socket, socket_path, state_folder
from magic_tui.client import engine as client
from magic_tui.client import engine_process, http, stream
from magic_tui.client.engine import RefusedError, connect
from magic_tui.client.engine_process import stop_engine
from magic_tui.client.http import DisconnectedError, NotListeningError, Request, Response
from tests.cli.conftest import Magic
from tests.fake_engine import FakeEngine

RUN = "20250102T030405-abc123"
SILENT = """
import fcntl, os, socket, sys, time
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print(os.getpid(), file=lock, flush=True)
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[2])
listening.listen(1)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Drop responses to a kind of request, after or before the engine handles it."""

    def lose(method: str, ending: str, error: Exception, heard: bool) -> None:
        errors = [error]

        def send(listening: Path, request: Request) -> Response:
            meant = request.method == method and request.path.endswith(ending)
            lost = meant and bool(errors)
            if lost:
                errors.clear()
            if lost and not heard:
                raise error
            answer = http.send(listening, request)
            if lost:
                raise error
            return answer

        monkeypatch.setattr(client, "send", send)

    return lose


def test_a_cancel_that_was_granted_before_the_engine_ended(
    engine: FakeEngine, magic: Magic, breaking: Callable[..., None]
) -> None:
    engine.add(RUN, "running")
    engine.on_action = lambda view, verb: engine.turn(RUN, "succeeded")
    breaking("POST", "/cancel", DisconnectedError("gone"), heard=True)
    result = magic("cancel", RUN)
    assert result.exit_code == 0
    assert result.stdout == f"run {RUN} succeeded before it could be cancelled\n"
    assert len(engine.of_kind("POST", "/cancel")) == 2


def test_a_lost_cancel_is_refused_when_repeated(
    engine: FakeEngine, magic: Magic, breaking: Callable[..., None]
) -> None:
    engine.add(RUN, "succeeded")
    breaking("POST", "/cancel", NotListeningError("gone"), heard=False)
    result = magic("cancel", RUN)
    assert result.exit_code == 2 and "nothing to cancel" in result.stderr


def test_a_removal_that_was_done_before_the_engine_ended(
    engine: FakeEngine, magic: Magic, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.add(RUN, "succeeded")
    refused = RefusedError("there is no such run", 2, 404)
    refused.repeated = True

    def send(self: object, request: Request, repeatable: bool = True) -> Any:
        if request.method == "DELETE":
            raise refused
        return real(self, request, repeatable)  # type: ignore[arg-type]

    real = client.Engine._send
    monkeypatch.setattr(client.Engine, "_send", send)
    result = magic("rm", RUN, "--yes")
    assert (result.exit_code, result.stdout) == (0, f"removed run {RUN} and its scores\n")
    refused.repeated = False
    assert magic("rm", RUN, "--yes").exit_code == 2


@pytest.mark.parametrize("heard", [True, False])
def test_attributions_are_never_submitted_twice(
    engine: FakeEngine, breaking: Callable[..., None], heard: bool
) -> None:
    engine.add(RUN, "succeeded")
    error = DisconnectedError if heard else NotListeningError
    breaking("POST", "/attributions", error("gone"), heard)
    connected = connect()
    if heard:
        with pytest.raises(UnreachableError, match="whether it received the request"):
            connected.attribute(RUN, {"texts": ["why?"]})
    else:
        connected.attribute(RUN, {"texts": ["why?"]})
    assert len(engine.of_kind("POST", "/attributions")) == 1


def test_requests_to_a_busy_engine_are_repeated(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, magic: Magic
) -> None:
    busy = Response(503, b'{"message": "too many connections", "exit_code": 3}')
    answers = [busy, busy]

    def send(listening: Path, request: Request) -> Response:
        return answers.pop() if answers else http.send(listening, request)

    monkeypatch.setattr(engine_process, "_BUSY_POLL_SECONDS", 0.01)
    monkeypatch.setattr(engine_process, "send", send)
    monkeypatch.setattr(client, "send", send)
    assert magic("ls").exit_code == 0 and not answers
    answers = [busy] * 2
    assert connect().runs() == [] and not answers
    monkeypatch.setattr(engine_process, "_RESPONSE_SECONDS", 0.1)
    answers = [busy] * 10_000
    result = magic("ls")
    assert result.exit_code == 3
    assert result.stderr == ("magic: the engine is running but too busy: too many connections\n")


def test_streams_of_a_busy_engine_are_requested_again(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_PAUSE_SECONDS", 0.01)
    run, connected = engine.add(RUN, "succeeded"), connect()
    engine.busy = 2
    assert list(stream.read_logs(connected, run, follow=False)) == engine.logs.splitlines()
    engine.busy = 1
    assert [m.kind for m in stream.follow_events(connected, run)] == ["state", "end"]
    engine.busy = 10_000
    with pytest.raises(RefusedError, match="too many connections"):
        list(stream.read_logs(connected, run, follow=False))
    engine.busy = 0


@pytest.fixture
def silent(places: Path) -> Iterator[int]:
    """An engine that holds its lock and socket, and never responds."""
    lock, listening = state_folder() / "engine.lock", socket_path()
    process = subprocess.Popen(
        [sys.executable, "-c", SILENT, str(lock), str(listening)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline()
    note_socket(state_folder(), listening)
    os.utime(lock, (0, 0))
    yield process.pid
    process.kill()
    process.communicate()


@pytest.mark.parametrize("verb", [["ls"], ["engine", "status"], ["engine", "stop"]])
def test_a_halted_engine_is_reported(
    silent: int, magic: Magic, monkeypatch: pytest.MonkeyPatch, verb: list[str]
) -> None:
    monkeypatch.setattr(engine_process, "_RESPONSE_SECONDS", 0.3)
    began = time.monotonic()
    result = magic(*verb)
    assert result.exit_code == 3 and time.monotonic() - began < 2
    assert f"the engine, process {silent}, does not respond" in result.stderr


def test_it_is_said_within_ten_seconds(silent: int) -> None:
    assert engine_process._response_seconds() <= 8
    os.utime(state_folder() / "engine.lock")
    assert 15 < engine_process._response_seconds() <= engine_process.START_SECONDS, (
        "it may still be loading"
    )


def test_stop_waits_for_the_process_and_not_for_the_lock(
    silent: int, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(engine_process, "_STOP_SECONDS", 10.0)
    began = time.monotonic()
    threading.Timer(0.3, lambda: os.kill(other.pid, signal.SIGTERM)).start()
    stop_engine(places / "nobody", other.pid)
    assert 0.3 <= time.monotonic() - began < 5, "another one holds the lock all the time"
    assert engine_process.engine_pid() == str(silent) and engine_process.stopped_note().exists()
    other.wait()
    monkeypatch.setattr(engine_process, "_STOP_SECONDS", 0.2)
    with pytest.raises(UnreachableError, match=f"end it with: kill {silent}"):
        stop_engine(places / "nobody", silent)
