"""``magic tui``: the dashboard. Only this verb loads Textual, and only when it is called."""

import sys
from typing import Annotated

import typer

from magic_tui.cli.options import RunsDir
from magic_tui.cli.output import reports_errors


@reports_errors
def tui(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="Id, unique prefix of one, or name; default none."),
    ] = None,
    no_mouse: Annotated[
        bool, typer.Option("--no-mouse", help="Leave the mouse to the terminal: select and copy.")
    ] = False,
    runs_dir: RunsDir = None,
) -> None:
    """Open the dashboard: runs, replay and scores on screen, by keyboard.

    Closing it changes nothing: runs go on.
    """
    from engine.contract.errors import UsageError
    from engine.records.naming import runs_folder
    from engine.records.run_folder import find_run, list_runs

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("magic tui needs a terminal; for scripts there are: magic ls, magic top")
    folder = runs_folder(runs_dir)
    chosen = find_run(folder, run) if run is not None else None
    from magic_tui.app import MagicApp
    from magic_tui.screens.numbered import WELCOME

    start = 2 if chosen is not None else 1 if list_runs(folder) else WELCOME
    MagicApp(runs_dir, None if chosen is None else chosen.id, start).run(mouse=not no_mouse)
