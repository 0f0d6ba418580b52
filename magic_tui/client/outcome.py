"""How work ended: a sentence, and the exit code that scripts rely on."""

import contextlib
from typing import Any

from engine.contract.errors import ExitCode, MagicError, RunError
from engine.contract.states import RunState
from magic_tui.client.engine import UNREADABLE
from magic_tui.client.start import View


class RunFailedError(MagicError):
    """A job failed; carries its own sentence and exit code, and what can be done about the run."""

    def __init__(self, run_id: str, job: View) -> None:
        """Tell of a failed job."""
        super().__init__(job["reason"] or "the run failed without a word")
        with contextlib.suppress(ValueError, TypeError):
            self.exit_code = ExitCode(job["exit_code"])
        self.facts: dict[str, Any] = {"run": run_id, "state": str(RunState.FAILED)}
        if self.exit_code == ExitCode.USAGE:
            self.hint = f"run {run_id} stays listed as failed; remove it with: magic rm {run_id}"
        else:
            self.hint = f"see: magic logs {run_id}; try again with: magic resume {run_id}"


class UnfinishedError(MagicError):
    """The work did not come to its end: paused, cancelled, or not within the time given."""

    exit_code = ExitCode.TIMEOUT_OR_CANCELLED

    def __init__(self, message: str, view: View) -> None:
        """Say what stands in the way."""
        super().__init__(message)
        self.facts: dict[str, Any] = {"run": view["id"], "state": view["state"]}


class DetachedError(MagicError):
    """The user stopped looking; the work goes on."""

    exit_code = ExitCode.INTERRUPTED

    def __init__(self, run_id: str) -> None:
        """Say how to look again."""
        super().__init__(f"the run goes on: magic watch {run_id}")


def job_of(view: View, number: int | None = None) -> View | None:
    """One job of a run; if not named the one that the run's state is that of."""
    if number is None:
        return view["job"] and dict(view["job"])
    return next((dict(job) for job in view["jobs"] if job["number"] == number), None)


def check_outcome(view: View, number: int | None = None) -> None:
    """Return if the job, or the run, succeeded.

    Raises:
        RunError: if the run cannot be read.
        RunFailedError: if it failed.
        UnfinishedError: if it is in any other state.
    """
    job, run_id = job_of(view, number), view["id"]
    state = view["state"] if job is None else job["state"]
    if state == RunState.SUCCEEDED:
        return
    if state == UNREADABLE:
        raise RunError(view["reason"] or f"run {run_id} cannot be read")
    if state == RunState.FAILED and job is not None:
        raise RunFailedError(run_id, job)
    if state in (RunState.PAUSED, RunState.CANCELLED):
        message = f"run {run_id} was {state}; it can go on with: magic resume {run_id}"
        raise UnfinishedError(message, view)
    reason = view["reason"] or ""
    raise UnfinishedError(f"run {run_id} is still {state}" + (reason and f": {reason}"), view)
