"""Pause, resume and cancel: which jobs an action affects, and the state it requests for them."""

from collections.abc import Sequence
from typing import Literal

from engine.daemon.job_monitor import WAITING, JobMonitor
from engine.daemon.run_monitor import RunMonitor
from engine.runs.errors import ConflictError
from engine.runs.states import DesiredState, RunState

RunAction = Literal["pause", "resume", "cancel"]
_DESIRED: dict[RunAction, DesiredState] = {
    "pause": DesiredState.PAUSED,
    "resume": DesiredState.RUNNING,
    "cancel": DesiredState.CANCELLED,
}
_RESUMABLE = (RunState.PAUSED, RunState.PAUSING, RunState.INTERRUPTED, RunState.BLOCKED)
_ENDED_EARLY = (RunState.FAILED, RunState.CANCELLED)


def affected_jobs(monitor: RunMonitor, action: RunAction) -> list[JobMonitor]:
    """The jobs of a run that an action applies to.

    Raises:
        ConflictError: if there are none; the message has the reason.
    """
    run = monitor.folder.id
    if action == "resume":
        jobs = _jobs_to_resume(monitor)
    else:
        jobs = [job for job in monitor.jobs if not job.state.finished]
    if not jobs:
        state = "without jobs" if not monitor.jobs else str(monitor.view().state)
        raise ConflictError(f"run {run} is {state}: there is nothing to {action}")
    if action == "pause":
        jobs = [job for job in jobs if job.desired is not DesiredState.CANCELLED]
        if not jobs:
            raise ConflictError(
                f"run {run} is being cancelled; when that is done, resume it with: "
                f"magic resume {run}"
            )
    return jobs


def _jobs_to_resume(monitor: RunMonitor) -> list[JobMonitor]:
    """Jobs that are paused or waiting, else the last job that failed or was cancelled."""
    jobs = [
        job
        for job in monitor.jobs
        if job.state in _RESUMABLE
        or (job.state in WAITING and monitor.unqueued_reason(job) is not None)
    ]
    if not jobs:
        jobs = [job for job in monitor.jobs if job.state in _ENDED_EARLY][-1:]
    if monitor.folder.has_trajectory() or all(job.request.work == "run" for job in jobs):
        return jobs
    # An attribution needs a trajectory, so the training is resumed with it.
    training = [
        job for job in monitor.jobs if job.request.work == "run" and job.state in _ENDED_EARLY
    ]
    return [*(job for job in training if job not in jobs), *jobs]


def set_desired_state(jobs: Sequence[JobMonitor], action: RunAction) -> None:
    """Request the state that an action leads to, durably; a repeated request changes nothing."""
    for job in jobs:
        # Resuming also resets the failures of earlier attempts.
        if action == "resume" or job.desired is not _DESIRED[action]:
            job.folder.set_desired_state(_DESIRED[action])
