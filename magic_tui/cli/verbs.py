"""The verbs of the ``magic`` command, and nothing that is slow to import.

Every verb is a function in a module of its own that imports what it needs when it is called, so
``magic --help`` reads only signatures.
"""

from typing import Annotated

import typer

from magic_tui.cli.attribute import attribute
from magic_tui.cli.average import average
from magic_tui.cli.cancel import cancel
from magic_tui.cli.demo import demo
from magic_tui.cli.doctor import doctor
from magic_tui.cli.engine import engine
from magic_tui.cli.export import export
from magic_tui.cli.logs import logs
from magic_tui.cli.ls import ls
from magic_tui.cli.pause import pause
from magic_tui.cli.plan import plan
from magic_tui.cli.resume import resume
from magic_tui.cli.rm import rm
from magic_tui.cli.run import run
from magic_tui.cli.show import show
from magic_tui.cli.status import status
from magic_tui.cli.top import top
from magic_tui.cli.tui import tui
from magic_tui.cli.validate import validate
from magic_tui.cli.wait import wait
from magic_tui.cli.watch import watch

VERBS = (
    *(demo, run, plan, attribute, validate),
    *(ls, status, watch, logs, wait, pause, resume, cancel, rm),
    *(tui, top, show, average, export, doctor),
)


def _print_version(asked: bool) -> None:
    if not asked:
        return
    from engine.runs.environment import magic_version

    typer.echo(f"magic {magic_version()}")
    raise typer.Exit()


app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in VERBS:
    app.command()(verb)
app.add_typer(engine, name="engine")


@app.callback()
def magic(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and end."
        ),
    ] = False,
) -> None:
    """Which training documents, and which of their tokens, made the model answer like this?"""
