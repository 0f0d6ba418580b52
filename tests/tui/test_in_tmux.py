"""Without stand-ins: tmux, the dashboard, an engine, ranks with torch."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from magic_tui.client import engine_process
from magic_tui.client.engine import connect_if_running
from tests.crash.tiny import tiny_config, tiny_model

ROOT = Path(__file__).resolve().parents[2]
REAL_ENGINE = list(engine_process.ENGINE_COMMAND)
_PATIENCE = 90.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]


class Tmux:
    """One pane of a tmux server of its own."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "tmux"
        self._folder = folder

    def call(self, *arguments: str) -> str:
        command = ["tmux", "-S", str(self.socket), "-f", "/dev/null", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout

    def start(self, *arguments: str) -> None:
        """The dashboard in a fresh session of 80×24."""
        command = shlex.join([sys.executable, "-m", "magic_tui", "tui", *arguments])
        name = uuid.uuid4().hex[:8]
        self.call(
            "new-session", "-d", "-s", name, "-x", "80", "-y", "24", "-c", str(self._folder),
            "-e", f"PYTHONPATH={ROOT}", f"exec {command}",
        )  # fmt: skip
        self.session = name

    def keys(self, *keys: str) -> None:
        for key in keys:
            self.call("send-keys", "-t", self.session, key)
            time.sleep(0.05)

    def type(self, text: str) -> None:
        self.call("send-keys", "-t", self.session, "-l", text)

    def screen(self) -> str:
        return self.call("capture-pane", "-p", "-t", self.session)

    def shows(self, pattern: str) -> str:
        """The screen once something is on it."""
        deadline = time.monotonic() + _PATIENCE
        while not re.search(pattern, content := self.screen()):
            assert time.monotonic() < deadline, f"never came: {pattern}\n{content}"
            time.sleep(0.1)
        return content

    def kill(self) -> None:
        """Kill the dashboard the hard way."""
        pid = int(self.call("list-panes", "-t", self.session, "-F", "#{pane_pid}"))
        self.call("set-option", "-t", self.session, "remain-on-exit", "on")
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def tmux(places: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tmux]:
    monkeypatch.setattr(engine_process, "ENGINE_COMMAND", REAL_ENGINE)
    monkeypatch.setenv("MAGIC_DISK_FLOOR_GB", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    tmux = Tmux(places)
    yield tmux
    with contextlib.suppress(subprocess.CalledProcessError):
        tmux.call("kill-server")
    engine = connect_if_running()
    if engine is not None:
        for run in engine.runs():
            with contextlib.suppress(Exception):
                engine.act(run["id"], "cancel")
            engine.wait(run["id"], 30)
        engine.stop()


def test_from_nothing_to_the_document_that_helped(
    tmux: Tmux, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, tiny_model(tmp_path / "model"))
    config["training"]["epochs"] = 40
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    runs = tmp_path / "runs"
    monkeypatch.setenv("MAGIC_RUNS", str(runs))
    tmux.start()
    tmux.shows("own config")
    tmux.keys("n")
    tmux.shows("config file")
    tmux.type(str(tmp_path / "run.yaml"))
    tmux.keys("Enter")
    tmux.shows("parameters · 7 documents")
    tmux.keys("s")
    tmux.shows("2 Live")
    tmux.shows(r"TRAIN +█")
    (run,) = runs.iterdir()

    tmux.kill()
    tmux.start(run.name)
    tmux.shows("attribution a0001 is complete")
    assert re.search(r"TRAIN +█+ +120/120", tmux.shows(r"REPLAY +▓+ +120/120"))

    tmux.keys("3")
    tmux.shows("queries of a0001")
    tmux.keys("i")
    tmux.shows(r"(?m)^ text$")
    tmux.type("the dog sat by the sea")
    tmux.keys("Enter")
    tmux.shows("basket: 1 query")
    tmux.keys("a")
    tmux.shows("2 Live")
    tmux.shows("attribution a0002 is complete")
    tmux.keys("4")
    ranked = tmux.shows("the dog sat by the sea")
    assert "7 documents" in ranked
    tmux.keys("Enter")
    tmux.shows("5 Document")
    content = tmux.shows("strongest tokens")
    assert "the dog sat by the sea" in content

    before = tmux.screen()
    tmux.kill()
    tmux.start(run.name)
    tmux.shows("attribution a0002 is complete")
    tmux.keys("4")
    tmux.shows("the dog sat by the sea")
    tmux.keys("Enter")
    tmux.shows("strongest tokens")
    assert tmux.screen().splitlines()[1:20] == before.splitlines()[1:20]
    tmux.keys("q")
