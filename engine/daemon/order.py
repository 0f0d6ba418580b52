"""Who is next: jobs start in the order in which they were asked for."""

from collections.abc import Iterable

from engine.contract.states import RunState
from engine.daemon.job_watch import WAITING, JobWatch
from engine.daemon.registry import Registry
from engine.daemon.views import RunWatch

Place = tuple[RunWatch, JobWatch]


def in_order(watches: Iterable[RunWatch], registry: Registry) -> list[Place]:
    """The jobs that wait, the first in the queue first; those that are over leave it."""
    jobs = [(watch, job) for watch in watches if not watch.problem for job in watch.jobs]
    finished = {(watch.folder.path, job.number) for watch, job in jobs if job.state.finished}
    registry.leave(lambda entry: entry in finished)
    waiting = [(watch, job) for watch, job in jobs if job.state in WAITING]
    # Of what the registry does not know, the files tell when it was asked for.
    waiting.sort(
        key=lambda place: (place[1].request.submitted, place[0].folder.id, place[1].number)
    )
    registry.enqueue((watch.folder.path, job.number) for watch, job in waiting)

    def position(place: Place) -> int:
        return registry.position((place[0].folder.path, place[1].number)) or 0

    return sorted(waiting, key=position)


def behind(watch: RunWatch, current: JobWatch) -> str:
    """Why a job of a run has to wait for the one before it."""
    if current.state is RunState.PAUSED:
        return (
            f"waits for job {current.number} of this run, which is paused; go on with: "
            f"magic resume {watch.folder.id}"
        )
    return f"waits for job {current.number} of this run"
