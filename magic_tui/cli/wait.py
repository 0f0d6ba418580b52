"""``magic wait``: block until the jobs of a run have ended."""

from typing import Annotated

import typer

from magic_tui.cli.options import AsJson, Run, RunsDir, Timeout
from magic_tui.cli.output import print_json, reports_errors


@reports_errors
def wait(
    run: Run = None,
    job: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=9999, help="Job number, as in magic status."),
    ] = None,
    timeout: Timeout = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Block until a run and its jobs finish; the exit code is the result.

    0: succeeded, 1: failed (or the failure's own code), 4: paused, cancelled, or not finished
    within --timeout. If no job is unfinished, the last one counts.
    """
    from magic_tui.client.engine import connect
    from magic_tui.client.outcome import awaited, check_outcome, job_of, job_words

    engine = connect(runs_dir)
    before = engine.find(run)
    jobs = awaited(before, job)
    view = engine.wait(before["id"], timeout, job)
    for number in jobs:
        check_outcome(view, number)
    if as_json:
        print_json(view)
    else:
        what = job_words(view, job_of(view, jobs[0]))
        typer.echo(f"{what} succeeded")
