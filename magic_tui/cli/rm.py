"""``magic rm``: remove a run, or only its trajectory."""

import sys
from typing import Annotated

import typer

from engine.runs.errors import UsageError
from magic_tui.cli.options import AsJson, RunsDir
from magic_tui.cli.output import narrate, print_json, reports_errors


@reports_errors
def rm(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="Id, unique id prefix, name, or name of its folder."),
    ],
    trajectory: Annotated[
        bool, typer.Option("--trajectory", help="Remove only the trajectory; scores stay readable.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation.")] = False,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Remove a run, or only its trajectory, after printing what is lost."""
    from magic_tui.client.engine import connect
    from magic_tui.runs.removal import removal_facts, removal_lines
    from magic_tui.text.numbers import bytes_text

    engine = connect(runs_dir)
    view = engine.find(run)
    run_id = view["id"]
    what = f"the trajectory of run {run_id}" if trajectory else f"run {run_id} and its scores"
    lost = removal_facts(view, trajectory)
    for line in removal_lines(lost):
        narrate(f"  {line}")
    if not yes:
        size = lost["trajectory_bytes" if trajectory else "bytes"]
        _confirm(f"remove {what} ({bytes_text(size)})")
    removed = engine.remove(run_id, "trajectory" if trajectory else "run")
    if as_json:
        print_json({"run": run_id, **removed, "lost": lost})
    else:
        freed = removed["freed_bytes"]
        typer.echo(f"removed {what}" + ("" if freed is None else f": {bytes_text(freed)} freed"))


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError(f"to {question} without confirmation, add --yes")
    if not typer.confirm(question, err=True):
        narrate("nothing was removed")
        raise typer.Exit(1)
