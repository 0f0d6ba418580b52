"""``magic watch``: follow a run until it finishes."""

import json
from typing import Annotated

import typer

from magic_tui.cli.options import Run, RunsDir
from magic_tui.cli.output import finite, narrate, reports_errors


@reports_errors
def watch(
    run: Run = None,
    as_jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Print each event as one JSON line.")
    ] = False,
    runs_dir: RunsDir = None,
) -> None:
    """Follow a run until it finishes.

    The exit code is that of magic wait. Ctrl+c does not stop the run.
    """
    from magic_tui.client.engine import connect
    from magic_tui.client.outcome import awaited, check_outcome
    from magic_tui.client.stream import follow_events

    engine = connect(runs_dir)
    view = engine.find(run)
    jobs = awaited(view)
    if as_jsonl:
        for message in follow_events(engine, view):
            if message.kind == "record":
                typer.echo(json.dumps(finite(message.data)))
            elif message.kind == "end":
                view = message.data
    else:
        from magic_tui.cli.work import attend

        narrate(f"run {view['id']}; ctrl+c does not stop it")
        view = attend(engine, view)
    for number in jobs:
        check_outcome(view, number)
    if not as_jsonl:
        narrate(f"run {view['id']} succeeded; show its scores with: magic top {view['id']}")
