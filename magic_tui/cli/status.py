"""``magic status``: what the engine does, or one run in detail."""

from pathlib import Path
from typing import Annotated

import typer

from magic_tui.cli.options import AsJson, RunsDir
from magic_tui.cli.output import print_json, reports_errors, stdout


@reports_errors
def status(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="Id, unique prefix of one, or name; default all."),
    ] = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the engine and its runs, or one run in detail.

    Without RUN, those that are not finished.
    """
    from engine.evaluation.summary import verdict_of
    from engine.scores.run_records import (
        attribution_list,
        derivative_of,
        made_from_of,
        unused_data,
        warnings_view,
    )
    from magic_tui.client.engine import connect, is_finished

    engine = connect(runs_dir)
    if run is not None:
        facts = engine.find(run)
        facts["attribution_list"] = attribution_list(facts)
        if (made_from := made_from_of(Path(facts["path"]))) is not None:
            facts = {**facts, "made_from": made_from}
        if unused := unused_data(Path(facts["path"])):
            facts = {**facts, "data": unused}
        derivative = derivative_of(Path(facts["path"]))
        facts = {**facts, "derivative": derivative} if derivative else facts
        facts = {**facts, **warnings_view(Path(facts["path"]))}
        judged = verdict_of(Path(facts["path"]))
        if judged is not None:
            from engine.evaluation.verdict import verdict_facts

            facts = {**facts, "verdict": verdict_facts(judged)}
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
