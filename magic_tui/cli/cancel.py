"""``magic cancel``: end a run now."""

from magic_tui.cli.options import AsJson, Run, RunsDir, Timeout
from magic_tui.cli.output import reports_errors


@reports_errors
def cancel(
    run: Run = None, timeout: Timeout = None, runs_dir: RunsDir = None, as_json: AsJson = False
) -> None:
    """End a run at once.

    What its training saved stays, and magic resume goes on from there. What an attribution
    that is not complete saved is removed: it would begin anew.
    """
    from magic_tui.cli.run_actions import act

    act("cancel", run, runs_dir, timeout, as_json)
