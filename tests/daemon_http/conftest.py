"""A daemon in a process of its own, and its clients."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from engine.runs.journal import JournalWriter
from engine.runs.states import RunState
from tests.fake_engine import a_view, put

ROOT = Path(__file__).resolve().parents[2]
RUN = "20260131T120000-0a1b2c"
AS_NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user takes root")


class Daemon:
    """One ``magic-engine`` with folders of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state, self.runtime, self.runs = folder / "state", folder / "run", folder / "runs"
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def place(self) -> Path:
        return Path((self.state / "socket").read_text().strip())

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "MAGIC_STATE_DIR": str(self.state),
            "MAGIC_RUNTIME_DIR": str(self.runtime),
            "MAGIC_RUNS": str(self.runs),
            "PYTHONPATH": str(ROOT),
        }

    def spawn(self, fake: bool = True, **environment: str) -> "subprocess.Popen[bytes]":
        """Start it and do not wait for it; with a fake engine in it, or the real one."""
        module = "tests.fake_engine" if fake else "engine.daemon"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", module],
                env={**self.environment, **environment}, cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        return self.process

    def start(self, fake: bool = True, **environment: str) -> "Daemon":
        process = self.spawn(fake, **environment)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError, httpx2.HTTPError), self.client() as client:
                if client.get("/v1/engine").json()["pid"] == process.pid:
                    return self
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def client(self) -> httpx2.Client:
        transport = httpx2.HTTPTransport(uds=str(self.place), verify=False)
        return httpx2.Client(
            transport=transport, base_url="http://engine", trust_env=False, timeout=20
        )

    def connect(self, timeout: float = 10.0) -> socket.socket:
        """A bare connection."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect(str(self.place))
        return connection

    def is_alive(self) -> bool:
        assert self.process is not None
        with self.client() as client:
            return self.process.poll() is None and client.get("/v1/engine").status_code == 200

    def end(self, number: int = signal.SIGTERM, patience: float = 15.0) -> int:
        """Send a signal; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(patience)

    def make_run(self, *states: RunState, run_id: str = RUN, events: int = 0) -> Path:
        """A run whose jobs are in these states, with a journal of so many events."""
        folder = self.runs / run_id
        shutil.rmtree(folder, ignore_errors=True)
        put(a_view(folder, *states))
        add_events(folder, events)
        return folder


def add_events(folder: Path, count: int, text: str = "") -> None:
    """Append events to a run's journal."""
    writer = JournalWriter(folder / "events.jsonl")
    for step in range(count):
        writer.append("train_step", step=step, text=text)
    writer.close()


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Whether a condition holds within some seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of the response on a bare connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            received += piece
    if not received:
        return 0, b""
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.fixture(scope="session")
def shared_daemon() -> Iterator[Daemon]:
    folder = Path(tempfile.mkdtemp(prefix="mg-"))
    daemon = Daemon(folder).start()
    yield daemon
    assert daemon.is_alive()
    assert daemon.end() == 0, daemon.log.read_text()
    shutil.rmtree(folder)


@pytest.fixture
def daemon(shared_daemon: Daemon) -> Iterator[Daemon]:
    """A shared daemon; its runs are removed after each test."""
    yield shared_daemon
    shutil.rmtree(shared_daemon.runs, ignore_errors=True)


@pytest.fixture
def lives(daemon: Daemon) -> Iterator[None]:
    """After every test the daemon still answers and its log is empty."""
    before = len(daemon.log.read_text())
    yield
    assert daemon.is_alive()
    assert "Traceback" not in daemon.log.read_text()[before:]


@pytest.fixture
def client(daemon: Daemon) -> Iterator[httpx2.Client]:
    with daemon.client() as client:
        yield client


@pytest.fixture
def new_daemon() -> Iterator[Callable[[], Daemon]]:
    """Creates daemons that the test starts; they are stopped after the test."""
    folder = Path(tempfile.mkdtemp(prefix="mg-"))
    daemons: list[Daemon] = []

    def make() -> Daemon:
        daemons.append(Daemon(folder / str(len(daemons))))
        daemons[-1].folder.mkdir()
        return daemons[-1]

    yield make
    for daemon in daemons:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
    shutil.rmtree(folder)
