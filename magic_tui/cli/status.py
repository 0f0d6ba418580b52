"""``magic status``: the engine and its runs, or one run in detail."""

from pathlib import Path
from typing import Annotated, Any

import typer

from engine.runs.states import View
from magic_tui.cli.options import AsJson, RunsDir
from magic_tui.cli.output import print_json, reports_errors, stdout


@reports_errors
def status(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="Id, unique id prefix, name, or name of its folder; default: all runs.",
        ),
    ] = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the engine and its runs, or one run in detail.

    Without RUN: the engine and its unfinished runs.
    """
    from magic_tui.client.engine import connect, is_finished

    engine = connect(runs_dir)
    if run is not None:
        facts = {**(view := engine.find(run)), **_facts_on_disk(view)}
    else:
        unfinished = [view for view in engine.runs() if not is_finished(view)]
        facts = {"engine": engine.view, "runs": unfinished}
    if as_json:
        print_json(facts)
        return
    from magic_tui.runs.status_lines import run_detail, status_lines

    console = stdout()
    lines = run_detail if run is not None else status_lines
    for line in lines(facts, console.width):
        console.print(line)


def _facts_on_disk(view: View) -> dict[str, Any]:
    """Facts of the run folder that the engine's view lacks; unavailable ones are left out."""
    from engine.evaluation.summary import verdict_of
    from engine.scores.run_records import (
        attribution_list,
        derivative_of,
        made_from_of,
        unused_data,
        warnings_view,
    )

    folder = Path(view["path"])
    optional: dict[str, Any] = {
        "made_from": made_from_of(folder),
        "data": unused_data(folder),
        "derivative": derivative_of(folder),
    }
    facts: dict[str, Any] = {name: value for name, value in optional.items() if value}
    facts |= {"attribution_list": attribution_list(view), **warnings_view(folder)}
    if (verdict := verdict_of(folder)) is not None:
        from engine.evaluation.verdict import verdict_facts

        facts["verdict"] = verdict_facts(verdict)
    return facts
