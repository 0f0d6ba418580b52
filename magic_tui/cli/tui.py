"""``magic tui``: the dashboard. Only this verb loads Textual, and only when it is called."""

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
    from magic_tui.cli.dashboard import dashboard

    dashboard(run, runs_dir).run(mouse=not no_mouse)
