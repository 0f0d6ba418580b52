"""``magic resume``: go on with a run that was paused, cancelled or failed."""

from magic_tui.cli.options import AsJson, Run, RunsDir, Timeout, Trust
from magic_tui.cli.output import reports_errors


@reports_errors
def resume(
    run: Run = None,
    timeout: Timeout = None,
    trust: Trust = False,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a run from what it saved.

    With one that was paused, was cancelled or failed.
    """
    from magic_tui.cli.run_actions import act

    act("resume", run, runs_dir, timeout, as_json, trust)
