"""Runs to read, and stand-ins for the engine and the worker."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from engine.runs.run_folder import RunFolder
from magic_tui.cli.verbs import app
from magic_tui.client import engine_process, worker
from tests.cli.fake_run import FakeRun
from tests.fake_engine import FakeEngine

Magic = Callable[..., Result]
NO_ENGINE = "import sys; print('no engine\\x1b[31m is started here'); sys.exit(7)"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run that tests only read."""
    return FakeRun().write(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty runs folder, found through the environment."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("MAGIC_RUNS", str(folder))
    return folder


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folders for an engine's state and socket, where none runs and none starts."""
    # A socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="magic-") as folder:
        monkeypatch.setenv("MAGIC_STATE_DIR", f"{folder}/state")
        monkeypatch.setenv("MAGIC_RUNTIME_DIR", f"{folder}/run")
        monkeypatch.setattr(engine_process, "ENGINE_COMMAND", [sys.executable, "-c", NO_ENGINE])
        yield Path(folder)


@pytest.fixture
def engine(places: Path) -> Iterator[FakeEngine]:
    """A stand-in for the engine that answers."""
    (places / "run").mkdir(mode=0o700)
    fake = FakeEngine(places / "run" / "engine.sock").start()
    yield fake
    fake.stop()


@pytest.fixture
def magic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Magic:
    """Call ``magic`` with arguments, in an empty folder, 80 cells wide and without colour."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


@pytest.fixture
def fake_worker(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a small script in the worker's place; call with how it should behave."""
    script = Path(__file__).with_name("fake_worker.py")
    monkeypatch.setattr(worker, "WORKER_COMMAND", [sys.executable, str(script)])

    def behave(how: str) -> None:
        monkeypatch.setenv("FAKE_WORKER", how)

    behave("good")
    return behave
