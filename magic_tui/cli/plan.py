"""``magic plan``: what a run would cost, before it starts."""

from pathlib import Path
from typing import Annotated

import typer

from magic_tui.cli.options import AsJson, Force, RunsDir
from magic_tui.cli.output import narrate, print_json, reports_errors, stderr, stdout


@reports_errors
def plan(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A run config in YAML.")],
    force: Force = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Check a config and estimate the time, memory and disk of its run."""
    from engine.runs.loaded_code import code_of
    from engine.runs.paths import runs_folder
    from engine.runs.read_config import read_config
    from magic_tui.client.worker import run_worker
    from magic_tui.runs.plan_lines import plan_lines

    code = code_of(read_config(config))
    for brought in code:
        narrate(f"note: runs code: {brought}")
    console = stderr()
    arguments = ["plan", "--config", str(config), "--runs", str(runs_folder(runs_dir))]
    for name in force or ():
        arguments += ["--force", name]
    if console.is_terminal:
        with console.status("reading the data and timing a step"):
            facts = run_worker(arguments)
    else:
        facts = run_worker(arguments)
    if as_json:
        print_json({**{key: value for key, value in facts.items() if key != "ok"}, "code": code})
        return
    console = stdout()
    for line in plan_lines(facts, console.width):
        console.print(line)
