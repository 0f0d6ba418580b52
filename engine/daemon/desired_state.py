"""What a user may wish of a run: to pause, to go on, to be cancelled."""

from collections.abc import Sequence
from typing import Literal

from engine.daemon.job_monitor import WAITING, JobMonitor
from engine.daemon.views import RunMonitor
from engine.runs.errors import ConflictError
from engine.runs.states import RunState, Wish

Verb = Literal["pause", "resume", "cancel"]
_WISHES: dict[Verb, Wish] = {"pause": Wish.PAUSE, "resume": Wish.RUN, "cancel": Wish.CANCEL}
_RESTING = (RunState.PAUSED, RunState.PAUSING, RunState.INTERRUPTED, RunState.BLOCKED)
_GIVEN_UP = (RunState.FAILED, RunState.CANCELLED)


def concerned(watch: RunMonitor, verb: Verb) -> list[JobMonitor]:
    """The jobs of a run that a wish is about.

    Raises:
        ConflictError: saying why there are none.
    """
    run = watch.folder.id
    if verb == "resume":
        jobs = _to_go_on(watch)
    else:
        jobs = [job for job in watch.jobs if not job.state.finished]
    if not jobs:
        state = "without jobs" if not watch.jobs else str(watch.view().state)
        raise ConflictError(f"run {run} is {state}: there is nothing to {verb}")
    if verb == "pause":
        jobs = [job for job in jobs if job.wish is not Wish.CANCEL]
        if not jobs:
            raise ConflictError(
                f"run {run} is being cancelled; once it is, it can go on with: magic resume {run}"
            )
    return jobs


def _to_go_on(watch: RunMonitor) -> list[JobMonitor]:
    """What rests, else only the job that was given up last: earlier ones may be long forgotten."""
    jobs = [
        job
        for job in watch.jobs
        if job.state in _RESTING or (job.state in WAITING and watch.not_asked(job) is not None)
    ]
    if not jobs:
        jobs = [job for job in watch.jobs if job.state in _GIVEN_UP][-1:]
    if watch.folder.has_trajectory() or all(job.request.work == "run" for job in jobs):
        return jobs
    # There is nothing to ask before the training comes to its end.
    training = [job for job in watch.jobs if job.request.work == "run" and job.state in _GIVEN_UP]
    return [*(job for job in training if job not in jobs), *jobs]


def make_wish(jobs: Sequence[JobMonitor], verb: Verb) -> None:
    """Write it down, durably; wishing the same again changes nothing."""
    for job in jobs:
        # To go on also forgives what earlier attempts ended in.
        if verb == "resume" or job.wish is not _WISHES[verb]:
            job.folder.set_wish(_WISHES[verb])
