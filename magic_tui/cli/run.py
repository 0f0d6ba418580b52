"""``magic run``: train a model, keep its trajectory, attribute the config's queries."""

from pathlib import Path
from typing import Annotated

import typer

from magic_tui.cli.options import AsJson, Force, RunsDir
from magic_tui.cli.output import print_json, reports_errors, stdout


@reports_errors
def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A run config in YAML.")],
    force: Force = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Train a model and attribute the config's queries.

    The trajectory is kept: magic attribute asks it anything else, without training again.
    """
    from magic_tui.cli.work import print_result, train

    facts = train(config, runs_dir, tuple(force or ()))
    if as_json:
        print_json({key: value for key, value in facts.items() if key != "ok"})
        return
    print_result(stdout(), facts, runs_dir)
