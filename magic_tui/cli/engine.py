"""``magic engine``: start, stop and configure the background process that executes runs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from magic_tui.cli.options import AsJson
from magic_tui.cli.output import narrate, print_json, reports_errors, stdout

engine = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Start or stop the background process that executes runs.",
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder of runs, or of one run.")]


@engine.command()
@reports_errors
def start(as_json: AsJson = False) -> None:
    """Start the engine, if it is not running.

    Verbs that need an engine start it automatically.
    """
    from magic_tui.client.engine import connect

    connected = connect()
    if as_json:
        print_json({**connected.view, "started_now": connected.started})
        return
    word = "started" if connected.started else "is running already"
    typer.echo(f"engine {word}: process {connected.view['pid']}")


@engine.command()
@reports_errors
def stop(as_json: AsJson = False) -> None:
    """Stop the engine, and wait until it has exited.

    Running jobs continue without it; queued jobs wait until an engine starts.
    """
    from magic_tui.client.engine import connect_if_running
    from magic_tui.text.numbers import counted

    connected = connect_if_running()
    if connected is None:
        if as_json:
            print_json({"stopped": False, "running": 0, "queued": 0})
        else:
            narrate("no engine is running")
        return
    before = connected.stop()
    running, queued = int(before.get("running") or 0), int(before.get("queued") or 0)
    if as_json:
        print_json({"stopped": True, "running": running, "queued": queued})
        return
    typer.echo(
        f"engine stopped; {counted(running, 'run')} {'continues' if running == 1 else 'continue'}"
    )
    if queued:
        typer.echo(f"{counted(queued, 'job')} stay queued until an engine starts")


@engine.command()
@reports_errors
def allow(folder: Folder, as_json: AsJson = False) -> None:
    """Let runs start in a folder in which other users may write.

    Those users can then run programs with your rights. Undo it with magic engine forget.
    """
    _change(
        folder, "allow", "runs may start in {runs_dir}, although others may write there", as_json
    )


@engine.command()
@reports_errors
def forget(folder: Folder, as_json: AsJson = False) -> None:
    """Dequeue all jobs of a folder, and undo magic engine allow.

    Running jobs continue; waiting and paused ones start again with magic resume.
    """
    _change(folder, "forget", "forgot {runs_dir}; jobs dequeued: {jobs}", as_json)


def _change(folder: Path, action: Literal["allow", "forget"], sentence: str, as_json: bool) -> None:
    from magic_tui.client.engine import connect

    view = connect(folder).folder(action)
    if as_json:
        print_json(view)
    else:
        typer.echo(sentence.format(**view))


@engine.command()
@reports_errors
def status(as_json: AsJson = False) -> None:
    """Show the engine and its machine.

    The exit code is 3 if no engine is running.
    """
    from engine.runs.errors import UnreachableError
    from magic_tui.client.engine import check_version, connect_if_running

    connected = connect_if_running()
    if connected is None:
        raise UnreachableError(
            "no engine is running; the next verb that needs one starts it, or start it with: "
            "magic engine start"
        )
    check_version(connected.view)
    if as_json:
        print_json(connected.view)
        return
    from magic_tui.runs.status_lines import engine_lines

    console = stdout()
    for line in engine_lines(connected.view, console.width):
        console.print(line)
