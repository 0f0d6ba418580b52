"""``magic ls``: the runs, newest first."""

import time
from typing import Any

from magic_tui.cli.options import AsJson, RunsDir
from magic_tui.cli.output import narrate, print_json, reports_errors, stdout


@reports_errors
def ls(runs_dir: RunsDir = None, as_json: AsJson = False) -> None:
    """List the runs, newest first."""
    from engine.scores.run_records import attribution_list
    from magic_tui.client.engine import connect

    engine = connect(runs_dir)
    runs = [{**run, "attribution_list": attribution_list(run)} for run in engine.runs()[::-1]]
    if as_json:
        print_json({"runs_dir": engine.runs_dir, "runs": [_facts(run) for run in runs]})
        return
    if not runs:
        narrate(f"no runs in {engine.runs_dir}; start one with: magic run CONFIG")
        return
    from magic_tui.runs.run_lines import run_lines

    console = stdout()
    for line in run_lines(runs, console.width):
        console.print(line)


def _facts(run: dict[str, Any]) -> dict[str, Any]:
    from magic_tui.client.engine import UNREADABLE

    age = None if run["created"] is None else max(0.0, time.time() - run["created"])
    return {**run, "problem": run["reason"] if run["state"] == UNREADABLE else None, "age": age}
