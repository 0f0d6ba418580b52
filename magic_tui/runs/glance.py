"""The engine and its runs at a glance, asked again and again by whoever watches.

Watching starts no engine that was stopped on purpose, and survives one that dies.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.runs.errors import MagicError, UnreachableError
from engine.runs.listing import list_runs
from engine.runs.states import View
from magic_tui.client.engine import UNREADABLE, Engine
from magic_tui.client.engine_process import reach, stopped_note

STOPPED = "the engine was stopped; magic engine start (or E here) starts it"


@dataclass(frozen=True)
class Glance:
    """What there was to see."""

    engine: View
    runs: list[View]


def glance(
    engine: Engine, run_id: str | None = None, lost: Callable[[], object] | None = None
) -> Glance:
    """The engine, and one of its runs or all of them, oldest first.

    Args:
        engine: where it was last.
        run_id: the run; all of them if left out.
        lost: called if none answers, before one is started, which may take long.

    Raises:
        UnreachableError: if there is no engine and none may or can be started.
        RefusedError: if the engine knows no such run.
    """
    reached = reach()
    if reached is None:
        if stopped_note().exists():
            raise UnreachableError(STOPPED)
        if lost is not None:
            lost()
        engine.reconnect()
    else:
        engine.socket, engine.view = reached
    runs = engine.runs() if run_id is None else [engine.run(run_id)]
    return Glance(engine.view, runs)


def runs_on_disk(folder: Path) -> list[View]:
    """What the folders of runs say by themselves, while there is no engine to ask."""
    found: list[View] = []
    for run in list_runs(folder):
        with contextlib.suppress(MagicError, OSError):
            complete = list(run.attributions.glob("*/complete.json"))
            found.append(
                {
                    "id": run.id, "path": str(run.path), "name": run.config().name,
                    "state": UNREADABLE, "reason": "the engine is not there to tell its state",
                    "job": None, "jobs": [], "model": run.config().model.path,
                    "trust_remote_code": False, "created": run.record().get("created"),
                    "phase": None, "steps": 0, "total_steps": None, "documents": None,
                    "attributions": len(complete), "trajectory_bytes": 0, "scores_bytes": 0,
                    "memory": None, "events": 0,
                }
            )  # fmt: skip
    return found
