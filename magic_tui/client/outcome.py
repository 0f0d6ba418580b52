"""Result of a job: a sentence and an exit code."""

import contextlib
from typing import Any

from engine.runs.errors import ExitCode, MagicError, RunError
from engine.runs.states import RunState, View
from magic_tui.client.engine import UNREADABLE


class RunFailedError(MagicError):
    """A job failed; carries the job's message and exit code, and a remedy."""

    def __init__(self, view: View, job: View) -> None:
        """The error of a failed job."""
        super().__init__(job["reason"] or "its process ended with no error message")
        with contextlib.suppress(ValueError, TypeError):
            self.exit_code = ExitCode(job["exit_code"])
        run_id = view["id"]
        self.facts: dict[str, Any] = {
            "run": run_id, "state": view["state"], "job": job["number"], "job_state": job["state"]
        }  # fmt: skip
        again = f"see: magic logs {run_id}; "
        if job.get("repeats"):
            again += "resuming it unchanged fails again: fix the reported cause first "
            again += "(other settings need a new run)"
        else:
            again += f"try again with: magic resume {run_id}"
        if view["state"] == RunState.SUCCEEDED:
            trained = f"run {run_id} itself is trained and unchanged"
            usage = self.exit_code == ExitCode.USAGE
            self.hint = trained if usage else f"{trained}; {again}"
        elif self.exit_code == ExitCode.USAGE and not view["steps"]:
            self.hint = (
                f"run {run_id} was not trained and stays listed as failed; remove it with: "
                f"magic rm {run_id}"
            )
        elif self.exit_code == ExitCode.USAGE:
            self.hint = f"run {run_id} stays listed as failed; its checkpoints are stored"
        else:
            self.hint = again


class UnfinishedError(MagicError):
    """A job did not finish: it was paused or cancelled, or the timeout passed."""

    exit_code = ExitCode.TIMEOUT_OR_CANCELLED

    def __init__(self, message: str, view: View) -> None:
        """Store the state of the run."""
        super().__init__(message)
        self.facts: dict[str, Any] = {"run": view["id"], "state": view["state"]}


class DetachedError(MagicError):
    """The user stopped following; the run continues."""

    exit_code = ExitCode.INTERRUPTED

    def __init__(self, run_id: str) -> None:
        """Name the command that follows the run again."""
        super().__init__(f"the run continues; follow it with: magic watch {run_id}")


def job_of(view: View, number: int | None = None) -> View | None:
    """A job of a run: the numbered one, else the first unfinished one, else the last."""
    if number is None:
        return view["job"] and dict(view["job"])
    return next((dict(job) for job in view["jobs"] if job["number"] == number), None)


def awaited(view: View, job: int | None = None) -> list[int | None]:
    """The jobs to wait for: the numbered one, else the unsettled ones, else the last."""
    if job is not None:
        return [job]
    unsettled = [int(j["number"]) for j in view["jobs"] if not RunState(j["state"]).settled]
    return [*unsettled] or [int(j["number"]) for j in view["jobs"][-1:]] or [None]


def job_words(view: View, job: View | None) -> str:
    """The name of a job in a sentence: its run, an attribution or a validation."""
    run = f"run {view['id']}"
    if job is None or job["work"] == "run":
        return run
    attribution = f"attribution {job['attribution']} of {run}"
    return attribution if job["work"] == "attribute" else f"the validation of {attribution}"


def check_outcome(view: View, number: int | None = None) -> None:
    """Return if the job, or the last job of the run, succeeded.

    Raises:
        RunError: if the run cannot be read.
        RunFailedError: if it failed.
        UnfinishedError: if it is in any other state.
    """
    job = job_of(view, number)
    state, reason = view["state"], view["reason"]
    if state == UNREADABLE:
        raise RunError(reason or f"run {view['id']} cannot be read")
    if job is not None:
        state, reason = job["state"], job["reason"]
    if state == RunState.SUCCEEDED:
        return
    if state == RunState.FAILED and job is not None:
        raise RunFailedError(view, job)
    what = job_words(view, job)
    if state in (RunState.PAUSED, RunState.CANCELLED):
        message = f"{what} was {state}; continue it with: magic resume {view['id']}"
        raise UnfinishedError(message, view)
    raise UnfinishedError(f"{what} is still {state}" + (f": {reason}" if reason else ""), view)
