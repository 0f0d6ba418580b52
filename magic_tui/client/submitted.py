"""What became of a submission whose answer was cut off by the end of the engine."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.runs.errors import UnreachableError
from engine.runs.states import View
from magic_tui.client.start import engine_pid

_PATIENCE_SECONDS = 15.0
"""An engine that was told to end has ended by then, whatever its disk does."""
_LOOK_SECONDS = 0.05


def submitted_after_all(runs_dir: str, run_id: str, config: Mapping[str, Any], pid: str) -> View:
    """The run, if the engine of process ``pid`` had queued it before it ended.

    A run's folder appears as a whole once the run is queued, so that the folder tells.

    Raises:
        UnreachableError: if it was not queued, or the engine does not end.
    """
    path = Path(runs_dir) / run_id
    deadline = time.monotonic() + _PATIENCE_SECONDS
    # Until its process is gone it may still be at it.
    while not path.is_dir() and engine_pid() == pid:
        if time.monotonic() > deadline:
            raise UnreachableError(
                f"the engine was told to stop and has not ended; once it has, run {run_id} is "
                f"queued if {path} is there"
            )
        time.sleep(_LOOK_SECONDS)
    if not path.is_dir():
        raise UnreachableError(
            f"run {run_id} was not queued: the engine was stopped before it took the run; start it "
            "with: magic engine start, then submit the run again"
        )
    return _queued(path, config)


def _queued(path: Path, config: Mapping[str, Any]) -> View:
    from engine.runs.api_schema import JobView, RunView
    from engine.runs.states import RunState

    reason = "the engine was stopped; the run starts with the next one: magic engine start"
    queries = config.get("queries")
    job = JobView(
        number=1,
        work="run",
        attribution=None if queries is None else "a0001",
        state=RunState.QUEUED,
        reason=reason,
        exit_code=None,
        attempts=0,
        queue_position=None,
        devices=[],
    )
    view = RunView(
        id=path.name,
        path=str(path),
        name=str(config.get("name", "")),
        state=RunState.QUEUED,
        reason=reason,
        job=job,
        jobs=[job],
        model=str((config.get("model") or {}).get("path", "")),
        trust_remote_code=bool((config.get("model") or {}).get("trust_remote_code", False)),
        created=None,
        phase=None,
        steps=0,
        total_steps=None,
        documents=None,
        attributions=0,
        trajectory_bytes=0,
        scores_bytes=0,
        memory=None,
        events=0,
    )
    return view.model_dump(mode="json")
