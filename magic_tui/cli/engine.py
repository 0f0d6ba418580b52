"""``magic engine``: the process that runs the runs."""

from pathlib import Path
from typing import Annotated

import typer

from magic_tui.cli.options import AsJson
from magic_tui.cli.output import narrate, print_json, reports_errors, stdout

engine = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Start or stop the process that runs the runs.",
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder of runs, or of one run.")]


@engine.command()
@reports_errors
def start(as_json: AsJson = False) -> None:
    """Start the engine, if none runs.

    The verbs that need one do so by themselves.
    """
    from magic_tui.client.engine import connect

    found = connect()
    if as_json:
        print_json({**found.view, "started_now": found.started})
        return
    word = "started" if found.started else "runs already"
    typer.echo(f"engine {word}: process {found.view['pid']}")


@engine.command()
@reports_errors
def stop(as_json: AsJson = False) -> None:
    """Stop the engine, and wait until it has ended.

    Runs that are at work go on without it; those that wait do so until an engine starts.
    """
    from magic_tui.client.engine import connect_if_running
    from magic_tui.text.numbers import counted

    found = connect_if_running()
    if found is None:
        if as_json:
            print_json({"stopped": False, "running": 0, "queued": 0})
        else:
            narrate("no engine runs")
        return
    before = found.stop()
    running, queued = int(before.get("running") or 0), int(before.get("queued") or 0)
    if as_json:
        print_json({"stopped": True, "running": running, "queued": queued})
        return
    typer.echo(f"engine stopped; {counted(running, 'run')} {'goes' if running == 1 else 'go'} on")
    if queued:
        typer.echo(f"{counted(queued, 'job')} stay queued until an engine starts")


@engine.command()
@reports_errors
def allow(folder: Folder, as_json: AsJson = False) -> None:
    """Let runs start in a folder in which other users may write.

    Whoever may write there can then have the engine run their programs in your name. This is
    remembered until magic engine forget.
    """
    from magic_tui.client.engine import connect

    view = connect(folder).folder("allow")
    if as_json:
        print_json(view)
    else:
        typer.echo(f"runs may start in {view['runs_dir']}, whoever may write there")


@engine.command()
@reports_errors
def forget(folder: Folder, as_json: AsJson = False) -> None:
    """Start nothing in a folder any more that was asked for so far.

    Runs at work there go on; what waits or is paused starts again with magic resume.
    """
    from magic_tui.client.engine import connect
    from magic_tui.text.numbers import counted

    view = connect(folder).folder("forget")
    if as_json:
        print_json(view)
    else:
        typer.echo(f"{view['runs_dir']} is forgotten, with {counted(view['jobs'], 'job')}")


@engine.command()
@reports_errors
def status(as_json: AsJson = False) -> None:
    """Show the engine and its machine.

    Exit code 3 if none runs.
    """
    from engine.runs.errors import UnreachableError
    from magic_tui.client.engine import check_version, connect_if_running

    found = connect_if_running()
    if found is None:
        raise UnreachableError(
            "no engine runs; it starts by itself with the next verb that needs it, or with: "
            "magic engine start"
        )
    check_version(found.view)
    if as_json:
        print_json(found.view)
        return
    from magic_tui.runs.status_lines import engine_lines

    console = stdout()
    for line in engine_lines(found.view, console.width):
        console.print(line)
