"""Follow a job and print its result: shared by ``run``, ``attribute``, ``watch`` and ``demo``."""

import shlex
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console

from engine.runs.run_folder import RunFolder
from engine.runs.states import View
from engine.runs.tables import RowTable
from engine.scores.attribution import Attribution, open_attribution
from engine.scores.top import Top, read_top
from magic_tui.cli.output import narrate, stderr
from magic_tui.cli.progress import ProgressView
from magic_tui.client.engine import Engine, is_settled
from magic_tui.client.outcome import DetachedError, check_outcome, job_of
from magic_tui.client.signals import signals_as_interrupt
from magic_tui.client.stream import Message, follow_events
from magic_tui.explore.top_lines import top_lines
from magic_tui.text.numbers import counted

_MOST_QUERIES = 3


def finish(engine: Engine, view: View, job: int, after: int = -1) -> dict[str, Any]:
    """Show a job's progress until it finishes; returns its run, folder and attribution.

    Raises:
        RunFailedError: if it failed.
        UnfinishedError: if it was paused or cancelled.
        DetachedError: on ctrl+c.
    """
    narrate(f"run {view['id']}; ctrl+c does not stop it")
    view = attend(engine, view, job, after)
    check_outcome(view, job)
    done = job_of(view, job) or {}
    return {"run": view["id"], "path": view["path"], "attribution": done.get("attribution")}


def attend(engine: Engine, view: View, job: int | None = None, after: int = -1) -> View:
    """Show a run's events after number ``after`` until a job (or all) is settled; returns its view.

    Raises:
        DetachedError: on ctrl+c.
    """
    end = _End(job, after)
    try:
        with (
            signals_as_interrupt(),
            ProgressView(stderr()) as progress,
            closing(follow_events(engine, view, after)) as messages,
        ):
            for message in messages:
                progress.add(message)
                if end.is_here(message):
                    break
    except KeyboardInterrupt:
        raise DetachedError(view["id"]) from None
    return end.view or view


class _End:
    """Whether a job is settled and all of its events were received."""

    def __init__(self, job: int | None, after: int) -> None:
        self.view: View | None = None
        self._job = job
        self._received = after + 1

    def is_here(self, message: Message) -> bool:
        if message.kind == "record":
            self._received = message.data["seq"] + 1
        elif message.kind in ("state", "end"):
            self.view = message.data
        if self._job is None or self.view is None or not is_settled(self.view, self._job):
            return message.kind == "end"
        return message.kind == "end" or self._received >= self.view["events"]


def top_tables(attribution: Attribution, count: int, label: str | None = None) -> list[Top]:
    """The top documents of the first few queries."""
    queries = range(min(_MOST_QUERIES, len(attribution.queries)))
    return [read_top(attribution, query, count, label=label) for query in queries]


def print_result(console: Console, facts: dict[str, Any], runs_dir: Path | None) -> None:
    """The top tables of a finished attribution, and commands to try next."""
    run = RunFolder(Path(facts["path"]))
    console.print()
    if not facts.get("attribution"):
        console.print(f"run {run.id} is trained and its trajectory stored; it has no queries yet")
        print_try_next(
            console,
            {"attribute queries": _command("attribute", run, runs_dir, _query_options(run))},
        )
        return
    attribution = open_attribution(run, facts["attribution"])
    console.print(f"run {run.id}  attribution {attribution.id}", style="dim")
    tables = top_tables(attribution, 10)
    for table in tables:
        console.print()
        for line in top_lines(table, console.width):
            console.print(line)
    hidden = len(attribution.queries) - len(tables)
    if hidden:
        console.print(f"and {counted(hidden, 'more query')}: see --query N", style="dim")
    print_try_next(console, next_commands(tables, run, runs_dir))


def next_commands(tables: list[Top], run: RunFolder, runs_dir: Path | None) -> dict[str, str]:
    """Commands to try next, with their purpose."""
    best = next((table for table in tables if table.listed), None)
    query, document = (best.query.index, best.listed[0].document) if best else (0, 0)
    chosen = f"{document} --query {query}"
    one = "one document" + (", token by token" if RowTable(run.rows_store).has_tokens else "")
    return {
        "more documents of a query": _command("top", run, runs_dir, f"--query {query} -k 30"),
        one: _command("show", run, runs_dir, chosen),
        "new queries, no retraining": _command("attribute", run, runs_dir, _query_options(run)),
        "all scores as a table": _command("export", run, runs_dir, "--format csv"),
    }


def _query_options(run: RunFolder) -> str:
    """Options of ``magic attribute`` for the run's kind of task."""
    return '--text "…"' if RowTable(run.rows_store).has_tokens else "--queries DATA --split SPLIT"


def print_try_next(console: Console, commands: dict[str, str]) -> None:
    """Print commands to copy, each with its purpose."""
    console.print("\ntry next", style="bold")
    for purpose, command in commands.items():
        console.print(f"  {purpose}", style="dim")
        console.print(f"    {command}", soft_wrap=True)


def _command(verb: str, run: RunFolder, runs_dir: Path | None, rest: str) -> str:
    where = f" --runs-dir {shlex.quote(str(runs_dir))}" if runs_dir is not None else ""
    return f"magic {verb} {run.id} {rest}{where}"
