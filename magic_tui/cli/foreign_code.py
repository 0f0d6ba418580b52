"""The code that a run brings: said whenever it will be loaded, accepted once if it is foreign."""

import sys
from typing import TYPE_CHECKING

import typer

from engine.runs.errors import UsageError
from engine.runs.states import View
from magic_tui.cli.output import narrate

if TYPE_CHECKING:
    from magic_tui.client.engine import Engine


def accept_code(engine: "Engine", run: View, trust: bool) -> None:
    """Say which code a run brings; if the engine did not see it before, have the user accept it.

    Raises:
        UsageError: if nobody accepts it.
    """
    code = run.get("code") or ()
    for line in code:
        narrate(f"note: runs code: {line}")
    if not code or engine.accepts_code(run["id"]):
        return
    why = f"the code of run {run['id']} did not come from you, or was changed since you accepted it"
    if not trust and sys.stdin.isatty() and sys.stderr.isatty():
        trust = typer.confirm(f"{why}. Run it in your name?", err=True)
    if not trust:
        raise UsageError(f"{why}; look at it, then ask again with --trust")
    engine.accept_code(run["id"])
