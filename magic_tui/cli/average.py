"""``magic average``: scores on average over runs that differ only in their seed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magic_tui.cli.options import AsJson, Attribution, Query, RunsDir
from magic_tui.cli.output import print_json, reports_errors, stdout

if TYPE_CHECKING:
    from engine.evaluation.average import Average


@reports_errors
def average(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN RUN…", help="Ids, unique prefixes of them, or names."),
    ],
    attribution: Attribution = None,
    query: Query = 0,
    count: Annotated[int, typer.Option("-k", metavar="K", help="Documents listed.", min=1)] = 10,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write the scores of all documents, as CSV."),
    ] = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Average the scores of runs that differ only in their seed.

    The mean tells how a query's loss answers a document's weight on average over trainings, not in
    one of them. Start the runs with: magic run CONFIG --seed N.
    """
    from engine.evaluation.average import average_facts, average_top, read_average
    from engine.evaluation.seeds import open_seeds
    from engine.evaluation.verdict import verdict_facts
    from engine.evaluation.verdict_of import verdict_of
    from engine.runs.listing import find_run
    from engine.runs.naming import runs_folder
    from magic_tui.explore.export import free_folder
    from magic_tui.explore.top_lines import top_lines
    from magic_tui.trust.average_lines import average_lines

    folder = None if out is None else free_folder(out)
    seeds = open_seeds([find_run(runs_folder(runs_dir), run) for run in runs], attribution)
    seeds[0].opened.query(query)
    found = read_average(seeds)
    top = average_top(found, query, count)
    verdicts = {each.run: verdict_of(each.opened.run.path, each.opened.id) for each in seeds}
    file = None if folder is None else _written(found, folder)
    if as_json:
        facts = average_facts(found, top)
        for run in facts["runs"]:
            verdict = verdicts[run["run"]]
            run["verdict"] = None if verdict is None else verdict_facts(verdict)
        print_json({**facts, "file": file})
        return
    console = stdout()
    for line in average_lines(found, verdicts, console.width):
        console.print(line)
    console.print()
    for line in top_lines(top, console.width):
        console.print(line)
    if file is not None:
        from engine.runs.safe_text import safe_text

        console.print(safe_text(file), soft_wrap=True)


def _written(average: "Average", folder: Path) -> str:
    from engine.evaluation.average import average_columns
    from engine.runs.atomic import new_folder
    from engine.scores.texts import DocumentTexts
    from magic_tui.explore.export_csv import write_documents_csv

    texts = DocumentTexts(average.seeds[0].opened.run.documents_file)
    with new_folder(folder) as staging:
        file = write_documents_csv(average_columns(average), texts, staging)
    return str(folder / file.name)
