"""``magic show``: a training document, its tokens coloured by score."""

from typing import Annotated

import typer

from engine.runs.errors import UsageError
from magic_tui.cli.options import AsJson, Attribution, Query, RunsDir
from magic_tui.cli.output import has_colour, print_json, reports_errors, stdout


@reports_errors
def show(
    which: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] DOC",
            help="A document's id, as listed by magic top; optionally a run before it.",
        ),
    ],
    attribution: Attribution = None,
    query: Query = 0,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Show a training document, its tokens coloured by score.

    Without --attribution, the latest attribution that has a query N is used.
    """
    from engine.runs.listing import find_run
    from engine.runs.paths import runs_folder
    from engine.scores.attribution import attribution_with
    from engine.scores.document import document_facts, read_document_scores
    from magic_tui.explore.document_lines import show_lines

    run, document = _run_and_document(which)
    opened = attribution_with(find_run(runs_folder(runs_dir), run), query, attribution)
    scores = read_document_scores(opened, query, document)
    if as_json:
        print_json(document_facts(scores))
        return
    console = stdout()
    console.print(f"run {scores.run}  attribution {scores.attribution}", style="dim")
    for line in show_lines(scores, console.width, has_colour(console)):
        console.print(line)


def _run_and_document(which: list[str]) -> tuple[str | None, int]:
    if len(which) > 2:
        raise UsageError(
            f"expected [RUN] DOC, got {len(which)} arguments; quote a name with spaces"
        )
    run = which[0] if len(which) == 2 else None
    try:
        return run, int(which[-1])
    except ValueError:
        raise UsageError(
            f"{which[-1]!r} is not a document's id; ids are numbers, see: magic top"
        ) from None
