"""The verbs of the ``magic`` command.

Every verb imports what it needs when it is called, so ``magic --help`` loads no slow module.
"""

from typing import Annotated

import typer

from magic_tui.cli.attribute import attribute
from magic_tui.cli.average import average
from magic_tui.cli.demo import demo
from magic_tui.cli.doctor import doctor
from magic_tui.cli.engine import engine
from magic_tui.cli.export import export
from magic_tui.cli.logs import logs
from magic_tui.cli.ls import ls
from magic_tui.cli.plan import plan
from magic_tui.cli.rm import rm
from magic_tui.cli.run import run
from magic_tui.cli.run_actions import cancel, pause, resume
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


def _print_version(requested: bool) -> None:
    if not requested:
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
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Compute how each training document, and each of its tokens, changed a model's answer."""
