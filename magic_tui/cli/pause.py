"""``magic pause``: give the machine back for now, keeping what is done."""

from magic_tui.cli.options import AsJson, Run, RunsDir, Timeout
from magic_tui.cli.output import reports_errors


@reports_errors
def pause(
    run: Run = None, timeout: Timeout = None, runs_dir: RunsDir = None, as_json: AsJson = False
) -> None:
    """Pause a run, keeping what it did.

    It finishes its step, saves and ends; magic resume goes on from there.
    """
    from magic_tui.cli.run_actions import act

    act("pause", run, runs_dir, timeout, as_json)
