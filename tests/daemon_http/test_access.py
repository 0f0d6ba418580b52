"""Only the engine's own user can connect, and no network port is open."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.daemon_http.conftest import AS_NOBODY, Daemon, needs_root

ASK = """
import socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.settimeout(5)
try:
    asked.connect(sys.argv[1])
    asked.sendall(b"GET /v1/engine HTTP/1.1\\r\\nHost: engine\\r\\nConnection: close\\r\\n\\r\\n")
    print("answered" if asked.recv(100) else "closed")
except OSError as error:
    print(type(error).__name__)
"""


def ask(place: Path, *before: str) -> str:
    """The answer to a request; ``before`` is a command that changes the user."""
    command = [*before, sys.executable, "-I", "-S", "-c", ASK, str(place)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=20, check=True, cwd="/"
    ).stdout.strip()


def mode(path: Path) -> str:
    return stat.filemode(path.lstat().st_mode)


def test_socket_and_folders_are_the_users_alone(daemon: Daemon) -> None:
    assert mode(daemon.place) == "srw-------"
    assert mode(daemon.runtime) == mode(daemon.state) == "drwx------"
    assert daemon.place.lstat().st_uid == os.geteuid()


def test_the_umask_does_not_matter(new_daemon: Callable[[], Daemon]) -> None:
    before = os.umask(0)
    try:
        daemon = new_daemon().start()
    finally:
        os.umask(before)
    assert mode(daemon.place) == "srw-------"
    assert mode(daemon.runtime) == mode(daemon.state) == "drwx------"


@needs_root
def test_the_folder_keeps_out_another_user(daemon: Daemon) -> None:
    assert ask(daemon.place) == "answered"
    assert ask(daemon.place, *AS_NOBODY) == "PermissionError"


@needs_root
def test_the_peer_check_keeps_out_another_user(new_daemon: Callable[[], Daemon]) -> None:
    daemon = new_daemon().start()
    for path in (daemon.folder.parent, daemon.folder, daemon.runtime):
        path.chmod(0o755)
    daemon.place.chmod(0o777)
    assert ask(daemon.place, *AS_NOBODY) in ("closed", "ConnectionResetError", "BrokenPipeError")
    assert ask(daemon.place) == "answered"
    assert daemon.is_alive()
    assert "Traceback" not in daemon.log.read_text()


@needs_root
def test_not_even_root_is_another_user(new_daemon: Callable[[], Daemon], tmp_path: Path) -> None:
    """The daemon of another user refuses root, who passes every file mode."""
    place = tmp_path / "engine.sock"
    refuse = (
        "import asyncio, os, socket, sys\n"
        "from engine.daemon.limits import peer_uid\n"
        "listening = socket.socket(socket.AF_UNIX)\n"
        "listening.bind(sys.argv[1]); listening.listen()\n"
        "os.setuid(65534)\n"
        "print('ready', flush=True)\n"
        "print(peer_uid(listening.accept()[0]), os.geteuid(), flush=True)\n"
    )
    daemon = new_daemon()
    other = subprocess.Popen(
        [sys.executable, "-P", "-c", refuse, str(place)],
        env=daemon.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    ask(place)
    assert other.stdout.read() == "0 65534\n"
    assert other.wait(10) == 0


def test_nothing_listens_on_a_network(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.get("/v1/runs", params={"runs_dir": str(daemon.runs)}).raise_for_status()
    process = psutil.Process(daemon.pid)
    for one in (process, *process.children(recursive=True)):
        assert one.net_connections(kind="inet") == []
    unix = [c.laddr for c in process.net_connections(kind="unix") if c.laddr]
    assert str(daemon.place) in unix


@pytest.mark.parametrize("module", ["torch", "textual", "transformers", "rich", "typer"])
def test_modules_that_are_not_loaded(loaded_modules: set[str], module: str) -> None:
    assert module not in loaded_modules
    assert "fastapi" in loaded_modules


@pytest.fixture(scope="module")
def loaded_modules() -> set[str]:
    """The modules loaded by a process that imports all modules of an engine."""
    script = """
import sys, pkgutil, importlib, engine.daemon
for module in pkgutil.iter_modules(engine.daemon.__path__, "engine.daemon."):
    importlib.import_module(module.name)
print(*sys.modules)
"""
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True,
        timeout=60, env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    return set(done.stdout.split())
