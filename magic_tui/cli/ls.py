"""``magic ls``: the runs, newest first."""

import typer

from magic_tui.cli.options import AsJson, RunsDir
from magic_tui.cli.output import print_json, reports_errors, stdout
from magic_tui.safe_text import safe_text


@reports_errors
def ls(runs_dir: RunsDir = None, as_json: AsJson = False) -> None:
    """List the runs, newest first."""
    from engine.records.run_folder import list_runs, runs_folder
    from magic_tui.client.summary import summarise
    from magic_tui.render.runs import run_lines

    runs = runs_folder(runs_dir)
    found = [summarise(run) for run in reversed(list_runs(runs))]
    if as_json:
        print_json({"runs_dir": str(runs), "runs": [summary.facts() for summary in found]})
        return
    if not found:
        typer.echo(f"no runs in {safe_text(str(runs))}; start one with: magic run CONFIG", err=True)
        return
    console = stdout()
    for line in run_lines(found, console.width):
        console.print(line)
