"""``magic logs``: output of a run's processes."""

from typing import Annotated

import typer

from engine.runs.safe_text import safe_text
from magic_tui.cli.options import Run, RunsDir
from magic_tui.cli.output import narrate, reports_errors


@reports_errors
def logs(
    run: Run = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new output until the run ends.")
    ] = False,
    runs_dir: RunsDir = None,
) -> None:
    """Print the output of a run's processes."""
    from magic_tui.client.engine import connect
    from magic_tui.client.stream import read_logs

    engine = connect(runs_dir)
    view = engine.find(run)
    silent = True
    for line in read_logs(engine, view, follow):
        typer.echo(safe_text(line))
        silent = False
    if silent:
        narrate(f"the processes of run {view['id']} printed nothing")
