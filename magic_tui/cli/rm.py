"""``magic rm``: remove a run, or only its trajectory."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from engine.contract.errors import RunError, UsageError
from magic_tui.cli.options import AsJson, RunsDir
from magic_tui.cli.output import print_json, reports_errors

if TYPE_CHECKING:
    from engine.records.run_folder import RunFolder


@reports_errors
def rm(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Id, unique prefix of one, or name.")],
    trajectory: Annotated[
        bool, typer.Option("--trajectory", help="Only the trajectory; scores stay readable.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Remove a run, or free the disk of its trajectory alone."""
    from engine.records.atomic import size_on_disk
    from engine.records.run_folder import find_run, runs_folder
    from magic_tui.render.numbers import bytes_text

    found = find_run(runs_folder(runs_dir), run)
    if found.is_busy():
        raise RunError(f"run {found.id} is at work; wait until it ends, then remove it")
    doomed = found.trajectory if trajectory else found.path
    size = size_on_disk(doomed)
    what = f"the trajectory of run {found.id}" if trajectory else f"run {found.id} and its scores"
    if not yes:
        _confirm(f"remove {what} ({bytes_text(size)})")
    _remove(found, trajectory)
    if as_json:
        print_json({"run": found.id, "removed": str(doomed), "freed_bytes": size})
    else:
        typer.echo(f"removed {what}: {bytes_text(size)} freed")


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError(f"to {question} without being asked, add --yes")
    if not typer.confirm(question, err=True):
        typer.echo("nothing was removed", err=True)
        raise typer.Exit(1)


def _remove(run: "RunFolder", trajectory: bool) -> None:
    """Rename out of sight first, so that no half-removed run is ever read."""
    import shutil

    doomed = run.trajectory if trajectory else run.path
    hidden = doomed.with_name(f".{doomed.name}.removed")
    with run.lock():
        if doomed.exists():
            doomed.rename(hidden)
    if hidden.is_symlink():
        hidden.unlink()
    elif hidden.exists():
        shutil.rmtree(hidden)
