"""Starting work and showing what came of it: shared by ``run``, ``attribute`` and ``demo``."""

import json
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console

from engine.contract.events import Event
from engine.contract.read_config import read_config
from engine.records.journal import JournalReader
from engine.records.run_folder import RunFolder, new_run_id, runs_folder
from magic_tui.cli.output import stderr
from magic_tui.cli.progress import ProgressView
from magic_tui.client.attribution import Attribution, open_attribution
from magic_tui.client.follow import NewRunJournal
from magic_tui.client.top import Top, read_top
from magic_tui.client.worker import WorkInterruptedError, run_worker
from magic_tui.render.numbers import counted
from magic_tui.render.top import top_lines

_SHOWN_QUERIES = 3


def train(config: Path, runs_dir: Path | None, force: tuple[str, ...] = ()) -> dict[str, Any]:
    """Run a config in a worker, with progress on stderr; the worker's facts.

    Raises:
        UsageError: if the config is wrong.
        WorkerError: if the worker refused or failed.
        WorkInterruptedError: on ctrl+c, naming what was kept.
    """
    read_config(config)
    runs, run_id = runs_folder(runs_dir), new_run_id()
    runs.mkdir(parents=True, exist_ok=True)
    run = RunFolder(runs / run_id)
    arguments = ["run", "--config", str(config), "--runs", str(runs), "--id", run_id]
    for name in force:
        arguments += ["--force", name]
    try:
        with ProgressView(stderr()) as view:
            return run_worker(arguments, NewRunJournal(runs, run_id), view, run.logs)
    except WorkInterruptedError:
        raise WorkInterruptedError(_what_was_kept(run)) from None


def ask(run: RunFolder, request: dict[str, Any]) -> dict[str, Any]:
    """Attribute new queries on a kept trajectory; the worker's facts.

    Raises:
        WorkerError: if the worker refused or failed.
        WorkInterruptedError: on ctrl+c.
    """
    journal = JournalReader(run.events_file)
    journal.poll()
    arguments = ["attribute", "--run", str(run.path), "--request", json.dumps(request)]
    try:
        with ProgressView(stderr()) as view:
            return run_worker(arguments, journal, view, run.logs)
    except WorkInterruptedError:
        raise WorkInterruptedError(
            f"interrupted; nothing was added to run {run.id}, its trajectory can be asked again"
        ) from None


def top_tables(attribution: Attribution, count: int, label: str | None = None) -> list[Top]:
    """The top documents of the first queries."""
    shown = min(_SHOWN_QUERIES, len(attribution.queries))
    return [read_top(attribution, query, count, label=label) for query in range(shown)]


def print_result(console: Console, facts: dict[str, Any], runs_dir: Path | None) -> None:
    """The top tables of a finished attribution and what to try next."""
    run = RunFolder(Path(facts["path"]))
    console.print()
    if not facts.get("attribution"):
        console.print(f"run {run.id}: trained, and its trajectory is kept; no query was asked yet")
        print_try_next(console, {"ask it": _command("attribute", run, runs_dir, '--text "…"')})
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
    """Commands that go on from here, by what they do."""
    best = next((table for table in tables if table.shown), None)
    query, document = (best.query.index, best.shown[0].document) if best else (0, 0)
    asked = f"{document} --query {query}"
    return {
        "more documents of a query": _command("top", run, runs_dir, f"--query {query} -k 30"),
        "one document, token by token": _command("show", run, runs_dir, asked),
        "ask something new, no retraining": _command("attribute", run, runs_dir, '--text "…"'),
        "all scores as a table": _command("export", run, runs_dir, "--format csv"),
    }


def print_try_next(console: Console, commands: dict[str, str]) -> None:
    """Commands a reader can copy, each with what it does."""
    console.print("\ntry next", style="bold")
    for purpose, command in commands.items():
        console.print(f"  {purpose}", style="dim")
        console.print(f"    {command}", soft_wrap=True)


def _command(verb: str, run: RunFolder, runs_dir: Path | None, rest: str) -> str:
    where = f" --runs-dir {shlex.quote(str(runs_dir))}" if runs_dir is not None else ""
    return f"magic {verb} {run.id} {rest}{where}"


def _what_was_kept(run: RunFolder) -> str:
    if not run.config_file.is_file():
        return "interrupted before training began; nothing was kept"
    events = run.events()
    steps = sum(event["event"] == Event.TRAIN_STEP for event in events)
    total = next((e["total"] for e in events if e.get("phase") == "train"), steps)
    if not run.has_trajectory():
        return (
            f"interrupted after {steps} of {total} training steps; run {run.id} keeps its config, "
            f"documents and events, but an unfinished trajectory cannot be asked: magic rm {run.id}"
        )
    return (
        f"interrupted after training; run {run.id} keeps its whole trajectory: "
        f"ask it with: magic attribute {run.id}"
    )
