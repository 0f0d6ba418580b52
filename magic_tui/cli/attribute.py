"""``magic attribute``: attribute new queries to the training data of a stored run."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from magic_tui.cli.options import AsJson, Detach, Run, RunsDir, Trust
from magic_tui.cli.output import narrate, print_json, reports_errors, stdout

Reduction = Literal["none", "mean", "sum"]
Granularity = Literal["token", "document"]


@reports_errors
def attribute(
    run: Run = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="TEXT", help="Text of a query; may be repeated."),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="TEXT", help="Prompt before each --text, without loss."),
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Query data: a file, folder or Hugging Face id."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="SPLIT", help="Split of the query data: test, train[:20], …"),
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of --queries with the text.")
    ] = None,
    prompt_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of --queries with a prompt.")
    ] = None,
    completion_column: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of --queries that follows the prompt."),
    ] = None,
    reduction: Annotated[
        Reduction, typer.Option(help="none: one query per text; mean, sum: one query of all texts.")
    ] = "none",
    granularity: Annotated[
        Granularity, typer.Option(help="Store token scores, or document scores only.")
    ] = "token",
    trust: Trust = False,
    detach: Detach = False,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Attribute new queries with the stored trajectory, without training again."""
    from magic_tui.cli.foreign_code import accept_code
    from magic_tui.client.engine import connect
    from magic_tui.queries.check_queries import submit_checked

    columns = {
        "split": split,
        "text_column": text_column,
        "prompt_column": prompt_column,
        "completion_column": completion_column,
    }
    request = {
        **_queries(text, queries, columns),
        **_prompts(prompt, text),
        "reduction": reduction,
        "granularity": granularity,
    }
    engine = connect(runs_dir)
    run_view = engine.find(run)
    accept_code(engine, run_view, trust)
    view = submit_checked(engine, run_view, request)
    job = view["jobs"][-1]
    if detach:
        _print_queued(view, job["attribution"], as_json)
        return
    from magic_tui.cli.work import finish, print_result

    facts = finish(engine, view, job["number"], after=view["events"] - 1)
    if as_json:
        print_json(facts)
        return
    print_result(stdout(), facts, runs_dir)


def _print_queued(run: dict[str, Any], attribution: str, as_json: bool) -> None:
    if as_json:
        print_json({**run, "attribution": attribution})
        return
    typer.echo(run["id"])
    narrate(f"attribution {attribution}; follow it with: magic watch {run['id']}")


def _prompts(prompts: list[str] | None, texts: list[str] | None) -> dict[str, Any]:
    from engine.runs.errors import UsageError

    if prompts is None:
        return {}
    if len(prompts) != len(texts or ()):
        raise UsageError("give one --prompt for each --text; a prompt may be empty")
    return {"prompts": prompts}


def _queries(
    texts: list[str] | None, queries: str | None, columns: dict[str, str | None]
) -> dict[str, Any]:
    """The ``texts`` or the ``queries`` of a request.

    Raises:
        UsageError: unless exactly one of them is given, with columns that fit it.
    """
    from engine.runs.errors import UsageError
    from engine.runs.read_config import absolute_path

    given = {name: column for name, column in columns.items() if column is not None}
    if (texts is None) == (queries is None):
        raise UsageError("no query: give --text TEXT or --queries FILE")
    if texts is not None:
        if given:
            raise UsageError(
                "--split and the column options need --queries FILE; leave them out with --text"
            )
        if not all(text.strip() for text in texts):
            raise UsageError("--text is empty; give the text of the query")
        return {"texts": texts, "queries": None}
    if ("prompt_column" in given) != ("completion_column" in given):
        raise UsageError("--prompt-column and --completion-column go together")
    if "prompt_column" in given and "text_column" in given:
        raise UsageError("give --text-column, or --prompt-column with --completion-column")
    path = absolute_path(str(queries), Path.cwd())
    return {"texts": None, "queries": {"path": path, **given}}
