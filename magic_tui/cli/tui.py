"""``magic tui``: the dashboard. No other command loads Textual."""

from typing import Annotated

import typer

from magic_tui.cli.options import RunsDir
from magic_tui.cli.output import reports_errors


@reports_errors
def tui(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="Id, unique id prefix, name, or name of its folder."),
    ] = None,
    no_mouse: Annotated[
        bool,
        typer.Option("--no-mouse", help="Leave mouse input to the terminal."),
    ] = False,
    runs_dir: RunsDir = None,
) -> None:
    """Open the dashboard: runs, training and scores, controlled by keyboard.

    Runs continue when it is closed.
    """
    from magic_tui.cli.dashboard import dashboard

    dashboard(run, runs_dir).run(mouse=not no_mouse)
