"""``magic run``: train a model, record its trajectory, attribute the config's queries."""

from pathlib import Path
from typing import Annotated

import typer

from magic_tui.cli.options import AsJson, Detach, Force, RunsDir
from magic_tui.cli.output import narrate, print_json, reports_errors, stdout


@reports_errors
def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A run config in YAML.")],
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, max=2**63 - 1, help="Replaces the config's seed."),
    ] = None,
    force: Force = None,
    detach: Detach = False,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Train a model and attribute the config's queries.

    The trajectory is stored: magic attribute computes other queries without training again.
    """
    from magic_tui.cli.submit import submit_config

    if not detach:
        # Imported before the run is submitted: from then on ctrl+c must be handled.
        from magic_tui.cli.work import finish, print_result
    engine, view = submit_config(config, runs_dir, tuple(force or ()), seed)
    if detach:
        if as_json:
            print_json(view)
        else:
            typer.echo(view["id"])
            narrate(f"follow it with: magic watch {view['id']}")
        return
    facts = finish(engine, view, job=1)
    if as_json:
        print_json(facts)
        return
    print_result(stdout(), facts, runs_dir)
