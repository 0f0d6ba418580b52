"""``magic demo``: train and attribute a small model, and check that its scores are plausible."""

from pathlib import Path
from typing import TYPE_CHECKING

from magic_tui.cli.options import AsJson, RunsDir
from magic_tui.cli.output import has_colour, print_json, reports_errors, stderr, stdout

if TYPE_CHECKING:
    from rich.console import Console

    from engine.scores.attribution import Attribution
    from engine.scores.top import LabelMatches, Top

_LISTED, _COUNTED, _LABEL = 5, 20, "book"


@reports_errors
def demo(runs_dir: RunsDir = None, as_json: AsJson = False) -> None:
    """Train a small model and attribute four queries to its training documents.

    The model learns passages of books. Nothing is downloaded.
    """
    from engine.runs.run_folder import RunFolder
    from engine.scores.attribution import open_attribution
    from engine.scores.top import label_matches, read_top, top_facts
    from magic_tui import runs
    from magic_tui.cli.submit import submit_config
    from magic_tui.cli.work import finish, next_commands, print_try_next

    config = runs.demo_config()
    stderr().print("training a small language model on passages of books; nothing is downloaded")
    facts = finish(*submit_config(config, runs_dir), job=1)
    attribution = open_attribution(RunFolder(Path(facts["path"])), facts["attribution"])
    tables = [
        read_top(attribution, query.index, _LISTED, label=_LABEL) for query in attribution.queries
    ]
    matches = label_matches(attribution, _LABEL, _COUNTED)
    if as_json:
        print_json(
            {
                **facts,
                "queries": [top_facts(attribution, table) for table in tables],
                "own_book": [vars(match) for match in matches],
            }
        )
        return
    console = stdout()
    _print_tables(console, attribution, tables)
    _print_matches(console, matches)
    print_try_next(console, next_commands(tables, attribution.run, runs_dir))


def _print_tables(console: "Console", attribution: "Attribution", tables: list["Top"]) -> None:
    from engine.scores.document import read_document_scores
    from magic_tui.explore.document_lines import show_lines
    from magic_tui.explore.top_lines import top_lines

    for table in tables:
        console.rule(style="dim")
        for line in top_lines(table, console.width):
            console.print(line)
    if tables and tables[0].listed:
        console.rule(style="dim")
        console.print("the most helpful document of query 0, token by token\n", style="bold")
        strongest = tables[0].listed[0].document
        scores = read_document_scores(attribution, tables[0].query.index, strongest)
        for line in show_lines(scores, console.width, has_colour(console)):
            console.print(line)


def _print_matches(console: "Console", matches: list["LabelMatches"]) -> None:
    from engine.runs.safe_text import one_line
    from magic_tui.text.cells import fit

    console.rule(style="dim")
    console.print("are the most helpful documents from the query's own book?\n", style="bold")
    for match in matches:
        line = (
            f"query {match.query}  {match.matches:>2} of the {match.listed} most helpful "
            f"({match.chance:.1f} expected by chance)  {one_line(match.label)}"
        )
        console.print(fit(line, console.width))
    total, listed = sum(m.matches for m in matches), sum(m.listed for m in matches)
    chance = sum(m.chance for m in matches)
    summary = f"in all {total:>2} of {listed} ({chance:.1f} expected by chance)"
    console.print(summary, style="bold")
