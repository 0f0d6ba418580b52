"""``magic top``: the training documents that help and harm a query most."""

from typing import Annotated

import typer

from magic_tui.cli.options import AsJson, Attribution, Query, Run, RunsDir
from magic_tui.cli.output import print_json, reports_errors, stdout


@reports_errors
def top(
    run: Run = None,
    attribution: Attribution = None,
    query: Query = 0,
    count: Annotated[
        int, typer.Option("-k", metavar="K", help="Number of documents to list.", min=1)
    ] = 10,
    harmful: Annotated[
        bool, typer.Option("--harmful", help="List harmful documents only.")
    ] = False,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Data column to show before each text.")
    ] = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """List a query's most helpful and most harmful training documents.

    Queries are numbered from 0 in every attribution. Without --attribution, the latest one that
    has a query N is used.
    """
    from engine.evaluation.summary import verdict_of
    from engine.evaluation.verdict import verdict_facts
    from engine.runs.listing import find_run
    from engine.runs.paths import runs_folder
    from engine.scores.attribution import attribution_with
    from engine.scores.run_records import warnings_view
    from engine.scores.top import read_top, top_facts
    from magic_tui.explore.top_lines import top_lines, verdict_lines, warning_lines

    opened = attribution_with(find_run(runs_folder(runs_dir), run), query, attribution)
    directions = ("harmful",) if harmful else ("helpful", "harmful")
    verdict = verdict_of(opened.run.path, opened.id)
    listed = read_top(opened, query, count, directions, label)
    view = warnings_view(opened.run.path, opened.id)
    if as_json:
        facts = {} if verdict is None else {"verdict": verdict_facts(verdict)}
        print_json({**top_facts(opened, listed), **view, **facts})
        return
    console = stdout()
    console.print(f"run {opened.run.id}  attribution {opened.id}", style="dim")
    for line in verdict_lines(verdict, console.width):
        console.print(line)
    for line in warning_lines(view, query, console.width):
        console.print(line)
    for line in top_lines(listed, console.width):
        console.print(line)
