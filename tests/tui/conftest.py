"""Runs to look at, stand-ins for the engine, and terminals of several sizes."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.runs.run_folder import RunFolder
from magic_tui.client import engine_process
from tests.cli.fake_run import FakeRun
from tests.fake_engine import FakeEngine
from tests.tui.driving import TERMINALS, Terminal

NO_ENGINE = "import sys; print('no engine is started here'); sys.exit(7)"


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folders for an engine's state and socket, where none runs and none starts."""
    # A socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="magic-") as folder:
        monkeypatch.setenv("MAGIC_STATE_DIR", f"{folder}/state")
        monkeypatch.setenv("MAGIC_RUNTIME_DIR", f"{folder}/run")
        monkeypatch.setattr(engine_process, "ENGINE_COMMAND", [sys.executable, "-c", NO_ENGINE])
        for name in ("NO_COLOR", "TMUX", "PAGER"):
            monkeypatch.delenv(name, raising=False)
        yield Path(folder)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run that tests only read; its folder's parent is the folder of runs."""
    return FakeRun().write(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def engine(places: Path) -> Iterator[FakeEngine]:
    """A stand-in for the engine that answers."""
    (places / "run").mkdir(mode=0o700)
    fake = FakeEngine(places / "run" / "engine.sock").start()
    yield fake
    fake.stop()


@pytest.fixture(params=TERMINALS, ids=str)
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """80×24, 200×55, and 80×24 without colour; for tests of layout."""
    terminal: Terminal = request.param
    if not terminal.colour:
        monkeypatch.setenv("NO_COLOR", "1")
    return terminal
