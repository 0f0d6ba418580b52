"""``magic wait``: until a run has ended."""

import typer

from magic_tui.cli.options import AsJson, Run, RunsDir, Timeout
from magic_tui.cli.output import print_json, reports_errors


@reports_errors
def wait(
    run: Run = None, timeout: Timeout = None, runs_dir: RunsDir = None, as_json: AsJson = False
) -> None:
    """Wait until a run has ended.

    Exit codes: 0 it succeeded, 1 it failed (or the failure's own code), 4 it was paused or
    cancelled, or did not end within --timeout.
    """
    from magic_tui.client.engine import connect
    from magic_tui.client.outcome import check_outcome

    engine = connect(runs_dir)
    view = engine.wait(engine.find(run)["id"], timeout)
    check_outcome(view)
    if as_json:
        print_json(view)
    else:
        typer.echo(f"run {view['id']} succeeded")
