"""``magic-engine`` with an engine whose runs are as their ``view.json`` says.

So that the tests of the HTTP interface decide what it is asked to serve, from their own process.
"""

import contextlib
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from engine.runs.api_schema import (
    API_VERSION,
    CodeView,
    EngineView,
    JobView,
    Removed,
    RunView,
    SubmitAttribution,
    SubmitRun,
    SubmitValidation,
)
from engine.runs.atomic import write_atomically
from engine.runs.errors import ConflictError, NotFoundError, RunError, UsageError
from engine.runs.states import RunState

VIEW = "view.json"


def a_view(folder: Path, *states: RunState, **facts: Any) -> RunView:
    """A run in ``folder`` with one job a state."""
    jobs = [
        JobView(
            number=number, work="run" if number == 1 else "attribute", attribution=None,
            state=state, reason=None, exit_code=None, attempts=1, queue_position=None, devices=[],
        )
        for number, state in enumerate(states, start=1)
    ]  # fmt: skip
    values: dict[str, Any] = {
        "id": folder.name, "path": str(folder), "name": "a run",
        "state": states[-1] if states else RunState.INTERRUPTED, "reason": None,
        "job": jobs[-1] if jobs else None, "jobs": jobs, "model": "m", "trust_remote_code": False,
        "created": 1.0, "phase": None, "steps": 0, "total_steps": None, "documents": None,
        "attributions": 0, "trajectory_bytes": 0, "scores_bytes": 0, "memory": None, "events": 0,
    }  # fmt: skip
    return RunView(**{**values, **facts})


def put(view: RunView) -> None:
    """Have the engine say this of a run from now on."""
    Path(view.path).mkdir(parents=True, exist_ok=True)
    write_atomically(Path(view.path) / VIEW, view.model_dump_json().encode())


class FakeEngine:
    """What :class:`engine.daemon.engine.Engine` promises, made of files."""

    def __init__(self, state_folder: Path, settings: Any) -> None:
        self._folders: set[Path] = set()

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def submit(self, wanted: SubmitRun) -> tuple[RunView, bool]:
        folder = Path(wanted.runs_dir) / wanted.id
        if (folder / VIEW).exists():
            view = self.run(folder.parent, wanted.id)
            if view.name != wanted.config.name:
                raise ConflictError(f"run {wanted.id} is there already with another config")
            return view, False
        view = a_view(folder, RunState.QUEUED, name=wanted.config.name)
        put(view)
        return view, True

    def attribute(self, runs_dir: Path, run_id: str, wanted: SubmitAttribution) -> RunView:
        view = self.run(runs_dir, run_id)
        states = [*(job.state for job in view.jobs), RunState.QUEUED]
        put(a_view(Path(view.path), *states))
        return self.run(runs_dir, run_id)

    def validate(self, runs_dir: Path, run_id: str, wanted: SubmitValidation) -> RunView:
        view = self.run(runs_dir, run_id)
        put(a_view(Path(view.path), *(job.state for job in view.jobs), RunState.QUEUED))
        return self.run(runs_dir, run_id)

    def act(self, runs_dir: Path, run_id: str, verb: str) -> RunView:
        view = self.run(runs_dir, run_id)
        if view.state == RunState.SUCCEEDED:
            raise ConflictError(f"run {run_id} is complete; there is nothing to {verb}")
        state = {"pause": RunState.PAUSED, "resume": RunState.QUEUED, "cancel": RunState.CANCELLED}
        put(a_view(Path(view.path), state[verb]))
        return self.run(runs_dir, run_id)

    def remove(self, runs_dir: Path, run_id: str, what: str) -> Removed:
        view = self.run(runs_dir, run_id)
        if not all(job.state.finished for job in view.jobs):
            raise ConflictError(f"run {run_id} is not finished; cancel it first")
        if what == "run":
            (Path(view.path) / VIEW).unlink()
        return Removed(removed=what, freed_bytes=1)

    def code(self, runs_dir: Path, run_id: str, accept: bool = False) -> CodeView:
        self.run(runs_dir, run_id)
        return CodeView(code=[], accepted=True)

    def allow(self, folder: Path) -> Path:
        return folder

    def forget(self, folder: Path) -> int:
        return 1

    def runs(self, runs_dir: Path) -> list[RunView]:
        return [self.run(runs_dir, path.parent.name) for path in sorted(runs_dir.glob(f"*/{VIEW}"))]

    def run(self, runs_dir: Path, run_id: str) -> RunView:
        try:
            text = (runs_dir / run_id / VIEW).read_text()
        except FileNotFoundError:
            raise NotFoundError(f"there is no run {run_id} in {runs_dir}") from None
        self._folders.add(runs_dir)
        if text == "broken":
            raise RunError("the journal is damaged")
        if text == "unforeseen":
            raise ZeroDivisionError("a secret of the inside")
        return RunView.model_validate_json(text)

    def find(self, runs_dir: Path, wanted: str | None) -> RunView:
        if wanted == "invalid":
            raise UsageError("that is no name")
        found = [run for run in self.runs(runs_dir) if run.id.startswith(wanted or "")]
        if not found:
            raise NotFoundError(f"no run in {runs_dir} is called {wanted!r}")
        if wanted is not None and len(found) > 1:
            raise ConflictError(f"{wanted!r} matches {len(found)} runs")
        return found[-1]

    def view(self, socket: str) -> EngineView:
        return EngineView(
            api_version=API_VERSION, version="0", pid=os.getpid(), started=time.time(),
            socket=socket, devices=[], memory_used=1, memory_total=2, disk_free=3, disk_floor=4,
            queued=0, running=0,
        )  # fmt: skip

    def changes(self) -> int:
        changed = 0
        for view in [view for folder in set(self._folders) for view in folder.glob(f"*/{VIEW}")]:
            with contextlib.suppress(FileNotFoundError):
                changed += view.stat().st_mtime_ns
        return changed


if __name__ == "__main__":
    # In place of the real one, which would take a while to load.
    stand_in: Any = ModuleType("engine.daemon.engine")
    stand_in.Engine = FakeEngine
    sys.modules[stand_in.__name__] = stand_in

    from engine.daemon import limits, server, streams
    from engine.daemon.main import main

    # So that tests need not wait for long.
    server._CHECK_TICKS = 4
    limits.REQUEST_SECONDS = float(os.environ.get("MAGIC_TEST_REQUEST_SECONDS", 30))
    streams.HEARTBEAT_SECONDS = float(os.environ.get("MAGIC_TEST_HEARTBEAT_SECONDS", 15))
    main()
