"""One look at the engine and its runs, for screens that poll.

Looking does not start an engine that was stopped with ``magic engine stop``; it reconnects to one
that was restarted.
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

STOPPED = "the engine was stopped; start it with: magic engine start (or press E)"


@dataclass(frozen=True)
class Glance:
    """The engine and its runs."""

    engine: View
    runs: list[View]


def glance(
    engine: Engine, run_id: str | None = None, lost: Callable[[], object] | None = None
) -> Glance:
    """The engine, and one of its runs or all of them, oldest first.

    Args:
        engine: the engine; its address is updated.
        run_id: the run; None for all.
        lost: called if no engine answers, before one is started, which may take long.

    Raises:
        UnreachableError: if there is no engine and none can be started.
        RefusedError: if the engine has no such run.
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
    """The runs of a folder as read from their files; used if no engine answers."""
    views: list[View] = []
    for run in list_runs(folder):
        with contextlib.suppress(MagicError, OSError):
            complete = list(run.attributions.glob("*/complete.json"))
            views.append(
                {
                    "id": run.id, "path": str(run.path), "name": run.config().name,
                    "state": UNREADABLE, "reason": "state unknown: no engine answers",
                    "job": None, "jobs": [], "model": run.config().model.path,
                    "trust_remote_code": False, "created": run.record().get("created"),
                    "phase": None, "steps": 0, "total_steps": None, "documents": None,
                    "attributions": len(complete), "trajectory_bytes": 0, "scores_bytes": 0,
                    "memory": None, "events": 0,
                }
            )  # fmt: skip
    return views
