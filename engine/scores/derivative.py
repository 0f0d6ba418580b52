"""How far a run's derivatives are from finite differences, as its preparation measured it."""

import contextlib
from pathlib import Path
from typing import Any

from engine.runs.errors import RunError
from engine.runs.run_folder import RunFolder


def derivative_of(run: Path) -> dict[str, Any] | None:
    """The derivative check recorded in a run's folder; None if there is none or it is damaged."""
    with contextlib.suppress(RunError, OSError):
        check: dict[str, Any] | None = RunFolder(run).prepared().get("derivative")
        return check
    return None
