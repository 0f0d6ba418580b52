"""``magic average``: mean scores over runs that differ only in their seed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magic_tui.cli.options import AsJson, Attribution, Query, RunsDir
from magic_tui.cli.output import print_json, reports_errors, stdout

if TYPE_CHECKING:
    from engine.evaluation.seeds import SeedMean


@reports_errors
def average(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN…", help="Ids, unique id prefixes, names, or names of folders."
        ),
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

    The mean is the effect of a document's weight on a query's expected loss over trainings; a
    single run's scores hold for its own training. Start the runs with: magic run CONFIG --seed N.
    """
    from engine.evaluation.seeds import mean_facts, mean_over_seeds, mean_top
    from engine.evaluation.summary import verdict_of
    from engine.evaluation.verdict import verdict_facts
    from engine.runs.listing import find_run
    from engine.runs.paths import runs_folder
    from magic_tui.explore.export import free_folder
    from magic_tui.explore.top_lines import top_lines
    from magic_tui.trust.average_lines import average_lines

    folder = None if out is None else free_folder(out)
    folders = [find_run(runs_folder(runs_dir), run) for run in runs]
    mean = mean_over_seeds(folders, attribution)
    top = mean_top(mean, query, count)
    opened = [each.attribution for each in mean.runs]
    verdicts = {each.run.id: verdict_of(each.run.path, each.id) for each in opened}
    file = None if folder is None else _write(mean, folder)
    if as_json:
        facts = mean_facts(mean, top)
        for run in facts["runs"]:
            verdict = verdicts[run["run"]]
            run["verdict"] = None if verdict is None else verdict_facts(verdict)
        print_json({**facts, "file": file})
        return
    console = stdout()
    for line in average_lines(mean, verdicts, console.width):
        console.print(line)
    console.print()
    for line in top_lines(top, console.width):
        console.print(line)
    if file is not None:
        from engine.runs.safe_text import safe_text

        console.print(safe_text(file), soft_wrap=True)


def _write(mean: "SeedMean", folder: Path) -> str:
    from engine.evaluation.seeds import mean_columns
    from engine.runs.atomic import new_folder
    from engine.scores.texts import DocumentTexts
    from magic_tui.explore.export import write_documents_csv

    texts = DocumentTexts(mean.runs[0].attribution.run.documents_file)
    with new_folder(folder) as staging:
        file = write_documents_csv(mean_columns(mean), texts, staging)
    return str(folder / file.name)
