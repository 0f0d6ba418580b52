"""Open the dashboard, without loading Typer if the arguments are simple.

Typer takes as long to load as everything else before the first frame. :func:`open_plainly` parses
the common arguments itself; all others, and all errors, are left to ``magic tui`` in Typer.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.runs.errors import MagicError, UsageError

if TYPE_CHECKING:
    from magic_tui.dashboard.app import MagicApp


def dashboard(run: str | None, runs_dir: Path | None) -> "MagicApp":
    """Create the dashboard: at a run, at the list of runs, or at Welcome if there are none.

    Raises:
        UsageError: if stdin or stdout is no terminal, or the run does not exist.
    """
    from engine.runs.listing import find_run, list_runs
    from engine.runs.paths import runs_folder

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("magic tui needs a terminal; in scripts use magic ls or magic top")
    folder = runs_folder(runs_dir)
    chosen = find_run(folder, run) if run is not None else None
    from magic_tui.dashboard.startup import limit_malloc

    limit_malloc()
    from magic_tui.dashboard.app import WELCOME, MagicApp

    start = 2 if chosen is not None else 1 if list_runs(folder) else WELCOME
    return MagicApp(runs_dir, None if chosen is None else chosen.id, start)


def open_plainly(arguments: Sequence[str]) -> bool:
    """Open the dashboard for simple arguments; returns whether they were simple and valid."""
    runs: list[str] = []
    folder: Path | None = None
    mouse, left = True, iter(arguments)
    for argument in left:
        name, equals, value = argument.partition("=")
        if argument == "--no-mouse":
            mouse = False
        elif name == "--runs-dir":
            given = value if equals else next(left, "")
            if not given:
                return False
            folder = Path(given)
        elif argument.startswith("-") or not argument or runs:
            return False
        else:
            runs.append(argument)
    try:
        app = dashboard(runs[0] if runs else None, folder)
    except (MagicError, OSError):
        return False
    app.run(mouse=mouse)
    return True
