"""The socket: which existing files are replaced, and recovery if its path is deleted."""

import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.runs.states import RunState
from tests.daemon_http.conftest import RUN, Daemon, add_events, needs_root, within

NewDaemon = Callable[[], Daemon]


def refused(daemon: Daemon, code: int, **environment: str) -> str:
    """The message of a daemon that does not start."""
    assert daemon.spawn(fake=False, **environment).wait(20) == code
    message = daemon.log.read_text().strip()
    assert message.startswith("magic-engine: ")
    assert "\n" not in message
    return message


def test_a_dead_engines_socket_is_replaced(new_daemon: NewDaemon) -> None:
    daemon = new_daemon().start()
    before = daemon.pid
    assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
    assert daemon.place.is_socket()
    assert daemon.start().pid != before


@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(new_daemon: NewDaemon, there: str) -> None:
    daemon = new_daemon()
    daemon.runtime.mkdir(mode=0o700)
    place = daemon.runtime / "engine.sock"
    if there == "file":
        place.write_text("precious")
    elif there == "folder":
        place.mkdir()
    else:
        place.symlink_to(daemon.folder / "elsewhere")
    message = refused(daemon, 3)
    assert f"{place} exists and is not a socket of yours; remove it" in message
    assert os.path.lexists(place)
    assert there != "file" or place.read_text() == "precious"


@needs_root
def test_another_users_socket_is_left_alone(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    daemon.runtime.mkdir(mode=0o700)
    place = daemon.runtime / "engine.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))
    os.chown(place, 65534, 65534)
    assert "is not a socket of yours" in refused(daemon, 3)
    assert place.is_socket()


def test_an_open_folder_and_a_long_path_are_refused(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    daemon.runtime.mkdir(mode=0o755)
    assert f"run: chmod 700 {daemon.runtime}" in refused(daemon, 3)
    daemon.log.unlink()
    message = refused(daemon, 3, MAGIC_RUNTIME_DIR=str(daemon.folder / ("x" * 120)))
    assert "longer than the 107 bytes" in message


def test_bad_settings_are_refused(new_daemon: NewDaemon) -> None:
    assert "MAGIC_CPU_RUNS is 'many'" in refused(new_daemon(), 2, MAGIC_CPU_RUNS="many")


def test_there_is_one_engine_a_state_folder(new_daemon: NewDaemon) -> None:
    first, second = new_daemon().start(), new_daemon()
    before = first.place.lstat().st_ino
    second.state = first.state
    message = refused(second, 1)
    assert f"runs already (process {first.pid}); stop it first" in message
    assert first.place.lstat().st_ino == before
    assert first.is_alive()


def test_of_many_that_start_at_once_one_stays(new_daemon: NewDaemon) -> None:
    first = new_daemon()
    others = [new_daemon() for _ in range(9)]
    for other in others:
        other.state, other.runtime = first.state, first.runtime
    processes = [daemon.spawn(fake=False) for daemon in (first, *others)]
    assert within(20, lambda: sum(process.poll() is None for process in processes) == 1)
    running = [process for process in processes if process.poll() is None]
    assert {process.returncode for process in processes if process not in running} == {1}
    assert within(5, lambda: (first.state / "socket").exists())
    with first.client() as client:
        assert client.get("/v1/engine").json()["pid"] == running[0].pid


def test_a_living_engine_of_another_state_folder_is_left_alone(new_daemon: NewDaemon) -> None:
    first, second = new_daemon().start(), new_daemon()
    second.runtime = first.runtime
    assert "an engine with another state folder listens at" in refused(second, 3)
    assert first.is_alive()


def test_a_lost_socket_is_recreated_and_streams_continue(new_daemon: NewDaemon) -> None:
    daemon = new_daemon().start()
    folder = daemon.make_run(RunState.RUNNING, events=3)
    params = {"runs_dir": str(daemon.runs), "follow": "true"}
    with (
        daemon.client() as client,
        client.stream("GET", f"/v1/runs/{RUN}/events", params=params) as answer,
    ):
        lines = answer.iter_lines()
        assert any(line == "id: 2" for line in lines)
        shutil.rmtree(daemon.runtime)
        assert within(8, daemon.place.is_socket)
        assert daemon.place.parent.stat().st_mode & 0o777 == 0o700
        assert daemon.place.stat().st_mode & 0o777 == 0o600
        assert daemon.is_alive()
        add_events(folder, 1)
        assert any(line == "id: 3" for line in lines)


def test_a_lost_session_folder_is_replaced_by_another_place(new_daemon: NewDaemon) -> None:
    daemon = new_daemon()
    session = daemon.folder / "session"
    session.mkdir(mode=0o700)
    daemon.start(MAGIC_RUNTIME_DIR="", XDG_RUNTIME_DIR=str(session))
    assert daemon.place == session / "magic/engine.sock"
    shutil.rmtree(session)
    fallback = Path(f"/tmp/magic-{os.geteuid()}/engine.sock")
    if os.path.lexists(fallback):
        pytest.skip(f"{fallback} is in use")
    assert within(8, lambda: daemon.place == fallback and daemon.is_alive())
    assert daemon.end() == 0
    assert not fallback.exists()


def test_a_socket_that_cannot_be_made_again_is_tried_until_it_can(new_daemon: NewDaemon) -> None:
    daemon = new_daemon().start()
    place = daemon.place
    place.unlink()
    place.write_text("in the way")
    assert within(8, lambda: "cannot be bound again" in daemon.log.read_text())
    assert place.read_text() == "in the way"
    place.unlink()
    assert within(8, place.is_socket)
    assert daemon.is_alive()
    assert daemon.log.read_text().count("cannot be bound again") == 1
