"""Engines whose supervisors are real and whose ranks are a small script."""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.daemon import scheduler
from engine.daemon.engine import Engine
from engine.daemon.settings import Settings
from engine.runs.api_schema import RunView, SubmitAttribution, SubmitRun
from engine.runs.config import RunConfig
from engine.runs.jobs import AttemptFolder, JobFolder
from engine.runs.request import AttributionRequest
from engine.runs.run_folder import new_run_id

PATIENCE_SECONDS = 15.0
CONFIG = RunConfig.model_validate(
    {"name": "mine", "model": {"path": "m"}, "data": {"path": "d"}, "devices": {"ranks": 1}}
)
NO_FLOOR = Settings(disk_floor=0)


class Bench:
    """A state folder, a runs folder, and engines that use them."""

    def __init__(self, folder: Path) -> None:
        self.runs = folder / "runs"
        self.state = folder / "state"
        self.engines: list[Engine] = []

    def start(self, settings: Settings = NO_FLOOR) -> Engine:
        engine = Engine(self.state, settings)
        engine.start()
        self.engines.append(engine)
        return engine

    def stop(self, engine: Engine) -> None:
        self.engines.remove(engine)
        engine.stop()

    def submit(self, engine: Engine, *orders: dict[str, Any], **environment: str) -> str:
        """Submit a run with scripted behaviour, one entry per attempt; returns its id."""
        wanted = SubmitRun(
            id=new_run_id(),
            runs_dir=str(self.runs),
            config=CONFIG,
            environment={"HF_FAKE_RANK": json.dumps(orders or [{}]), **environment},
        )
        view, created = engine.submit(wanted)
        assert created and view.id == wanted.id
        return wanted.id

    def ask(self, engine: Engine, run: str, *orders: dict[str, Any]) -> RunView:
        """Submit an attribution of queries."""
        environment = {"HF_FAKE_RANK": json.dumps(orders or [{}])}
        request = AttributionRequest(texts=("why?",))
        wanted = SubmitAttribution(request=request, environment=environment)
        return engine.attribute(self.runs, run, wanted)

    def until(self, engine: Engine, run: str, is_so: Callable[[RunView], bool] | str) -> RunView:
        """Wait until the current job, else the last, is in a state or meets a condition."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            view = engine.run(self.runs, run)
            if _state_at_hand(view) == is_so if isinstance(is_so, str) else is_so(view):
                return view
            time.sleep(0.02)
        raise AssertionError(f"{is_so} was not reached: {view!r}")

    def act(self, engine: Engine, run: str, verb: Any) -> RunView:
        return engine.act(self.runs, run, verb)

    def allow(self, run: str, name: str = "go") -> None:
        """Create the file that a rank waits for."""
        (self.runs / run / name).touch()

    def job(self, run: str, number: int = 1) -> JobFolder:
        return JobFolder(self.runs / run / "jobs" / f"{number:04d}")

    def attempts(self, run: str, job: int = 1) -> list[AttemptFolder]:
        return self.job(run, job).attempts()

    def exit(self, run: str, attempt: int = 1, job: int = 1) -> dict[str, Any]:
        record = self.attempts(run, job)[attempt - 1].exit()
        assert record is not None
        return record

    def rank(self, run: str, attempt: int = 1) -> int:
        """The process id of a running rank."""
        log = self.attempts(run)[attempt - 1].log_file
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError, IndexError):
                return int(log.read_text().split()[1])
            time.sleep(0.01)
        raise AssertionError(f"{log} names no rank")

    def supervisor(self, run: str, attempt: int = 1) -> int:
        return int(self.attempts(run)[attempt - 1].about()["pid"])

    def close(self) -> None:
        for engine in self.engines:
            engine.stop()
        end_attempts(self.runs)


def _state_at_hand(view: RunView) -> str:
    if view.job is None or view.state == "unreadable":
        return view.state
    return view.job.state


def end_attempts(runs: Path) -> None:
    """Kill the remaining supervisors and their ranks."""
    for attempt in runs.glob("*/jobs/*/attempts/*"):
        folder = AttemptFolder(attempt)
        while folder.is_held():
            with contextlib.suppress(ProcessLookupError, KeyError):
                os.kill(folder.about()["pid"], signal.SIGKILL)
            time.sleep(0.01)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    command = [sys.executable, "-P", str(Path(__file__).with_name("supervise.py"))]
    monkeypatch.setattr(scheduler, "SUPERVISOR_COMMAND", command)
    monkeypatch.setattr(scheduler, "AT_WORK_SECONDS", 0.03)
    monkeypatch.setattr(scheduler, "WAITING_SECONDS", 0.05)
    monkeypatch.setenv("MAGIC_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    bench = Bench(tmp_path)
    yield bench
    bench.close()
