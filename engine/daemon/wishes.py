"""What a user may wish of a run: to pause, to go on, to be cancelled."""

from collections.abc import Sequence
from typing import Literal

from engine.contract.errors import ConflictError
from engine.contract.states import RunState, Wish
from engine.daemon.job_watch import JobWatch
from engine.daemon.views import RunWatch

Verb = Literal["pause", "resume", "cancel"]
_WISHES: dict[Verb, Wish] = {"pause": Wish.PAUSE, "resume": Wish.RUN, "cancel": Wish.CANCEL}
_RESUMABLE = (
    RunState.PAUSED,
    RunState.PAUSING,
    RunState.FAILED,
    RunState.CANCELLED,
    RunState.INTERRUPTED,
    RunState.BLOCKED,
)


def concerned(watch: RunWatch, verb: Verb) -> list[JobWatch]:
    """The jobs of a run that a wish is about.

    Raises:
        ConflictError: saying why there are none.
    """
    run, current = watch.folder.id, watch.current()
    if verb == "resume":
        jobs = [job for job in watch.jobs if job.state in _RESUMABLE]
    else:
        jobs = [job for job in watch.jobs if not job.state.finished]
    if not jobs:
        state = "without jobs" if current is None else str(current.state)
        raise ConflictError(f"run {run} is {state}: there is nothing to {verb}")
    if verb == "pause":
        jobs = [job for job in jobs if job.wish is not Wish.CANCEL]
        if not jobs:
            raise ConflictError(
                f"run {run} is being cancelled; once it is, it can go on with: magic resume {run}"
            )
    return jobs


def make_wish(jobs: Sequence[JobWatch], verb: Verb) -> None:
    """Write it down, durably; wishing the same again changes nothing."""
    for job in jobs:
        # To go on also forgives what earlier attempts ended in.
        if verb == "resume" or job.wish is not _WISHES[verb]:
            job.folder.set_wish(_WISHES[verb])
