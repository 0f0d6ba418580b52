"""How the engine starts and ends, and what its clients receive."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.runs.environment import magic_version
from engine.runs.states import RunState
from tests.daemon_http.conftest import RUN, Daemon

NewDaemon = Callable[[], Daemon]


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_signals_end_it_quickly_in_the_middle_of_streams(
    new_daemon: NewDaemon, number: signal.Signals
) -> None:
    # Under nohup, and in the background of a shell, children would inherit that it is ignored.
    before = signal.signal(number, signal.SIG_DFL)
    daemon = new_daemon().start()
    signal.signal(number, before)
    daemon.make_run(RunState.RUNNING, events=3)
    params = {"runs_dir": str(daemon.runs), "follow": "true"}
    with (
        daemon.client() as client,
        client.stream("GET", f"/v1/runs/{RUN}/events", params=params) as answer,
    ):
        lines = answer.iter_lines()
        assert any(line == "id: 2" for line in lines)
        begin = time.monotonic()
        assert daemon.end(number) == 0
        assert time.monotonic() - begin < 1.5
        # The stream ended as a whole answer does.
        list(lines)
    place = daemon.runtime / "engine.sock"
    assert not place.exists() and not (daemon.state / "socket").exists()
    assert "Traceback" not in daemon.log.read_text()


def test_a_client_that_does_not_read_holds_it_up_for_two_seconds_at_most(
    new_daemon: NewDaemon,
) -> None:
    daemon = new_daemon().start()
    daemon.make_run(RunState.RUNNING, events=20_000)
    with daemon.connect() as connection:
        path = f"/v1/runs/{RUN}/events?follow=true&runs_dir={daemon.runs}"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: engine\r\n\r\n".encode())
        time.sleep(0.5)
        begin = time.monotonic()
        assert daemon.end() == 0
        assert time.monotonic() - begin < 3
    assert "Traceback" not in daemon.log.read_text()


def test_a_request_ends_it(new_daemon: NewDaemon) -> None:
    daemon = new_daemon().start()
    daemon.make_run(RunState.RUNNING)
    with daemon.client() as client:
        answer = client.post("/v1/engine/stop")
        assert (answer.status_code, answer.json()) == (202, {})
    assert daemon.process is not None and daemon.process.wait(5) == 0
    assert not (daemon.runtime / "engine.sock").exists()


def test_waiting_ends_with_it(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    # A service manager that is gone does no harm.
    daemon.start(NOTIFY_SOCKET=str(daemon.folder / "gone"))
    daemon.make_run(RunState.RUNNING)
    path = f"/v1/runs/{RUN}/wait?runs_dir={daemon.runs}&timeout=20"
    with daemon.connect() as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: engine\r\n\r\n".encode())
        time.sleep(0.5)
        assert daemon.end() == 0
        assert b'"state":"running"' in connection.recv(65536)
    assert "cannot notify the service manager of READY=1" in daemon.log.read_text()


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_notified(new_daemon: NewDaemon, abstract: bool) -> None:
    daemon = new_daemon()
    name = str(daemon.folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(10)
        manager.bind("\0" + name if abstract else name)
        daemon.start(NOTIFY_SOCKET=("@" if abstract else "") + name)
        assert manager.recv(100) == b"READY=1"
        assert daemon.end() == 0
        assert manager.recv(100) == b"STOPPING=1"


def run_it(*arguments: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.run(
        [sys.executable, "-P", "-m", "engine.daemon", *arguments],
        capture_output=True, text=True, timeout=20, check=False, cwd=root,
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def test_help_and_version_start_nothing() -> None:
    result = run_it("--help")
    assert result.returncode == 0
    for word in ("MAGIC_STATE_DIR", "MAGIC_RUNTIME_DIR", "MAGIC_DISK_FLOOR_GB", "MAGIC_CPU_RUNS"):
        assert word in result.stdout
    assert "systemd" in result.stdout and "containers" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
    result = run_it("--version")
    assert result.returncode == 0 and result.stdout == f"magic-engine {magic_version()}\n"
    assert run_it("--port", "80").returncode == 2
