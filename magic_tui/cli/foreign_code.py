"""Code that a run loads: printed before it is loaded, accepted once if it is not the user's."""

import sys
from typing import TYPE_CHECKING

import typer

from engine.runs.errors import UsageError
from engine.runs.states import View
from magic_tui.cli.output import narrate

if TYPE_CHECKING:
    from magic_tui.client.engine import Engine


def accept_code(engine: "Engine", run: View, trust: bool) -> None:
    """Print the code that a run loads; request the user's consent if the engine has none.

    Raises:
        UsageError: if the user does not accept it.
    """
    code = run.get("code") or ()
    for line in code:
        narrate(f"note: runs code: {line}")
    if not code or engine.accepts_code(run["id"]):
        return
    why = f"the code of run {run['id']} was not submitted by you, or changed since you accepted it"
    if not trust and sys.stdin.isatty() and sys.stderr.isatty():
        trust = typer.confirm(f"{why}. Run it in your name?", err=True)
    if not trust:
        raise UsageError(f"{why}; read it, then repeat the command with --trust")
    engine.accept_code(run["id"])
