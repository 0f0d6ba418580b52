"""Who is next: the jobs that were asked of this engine, in the order in which they were."""

from collections.abc import Iterable

from engine.daemon.job_monitor import WAITING, JobMonitor
from engine.daemon.registry import Registry
from engine.daemon.views import RunMonitor
from engine.runs.states import RunState

Place = tuple[RunMonitor, JobMonitor]


def in_order(watches: Iterable[RunMonitor], registry: Registry) -> list[Place]:
    """The jobs in the queue that wait, the first one first; those that are over leave it.

    What is not in the queue was never asked of this engine, whatever its files say.
    """
    jobs = [(watch, job) for watch in watches if not watch.problem for job in watch.jobs]
    finished = {(watch.folder.path, job.number) for watch, job in jobs if job.state.finished}
    registry.leave(lambda entry: entry in finished)
    placed = [
        (position, (watch, job))
        for watch, job in jobs
        if job.state in WAITING
        and (position := registry.position((watch.folder.path, job.number))) is not None
    ]
    return [place for _, place in sorted(placed, key=lambda entry: entry[0])]


def behind(watch: RunMonitor, current: JobMonitor) -> str:
    """Why a job of a run has to wait for the one before it."""
    if current.state is RunState.PAUSED:
        return (
            f"waits for job {current.number} of this run, which is paused; go on with: "
            f"magic resume {watch.folder.id}"
        )
    return f"waits for job {current.number} of this run"
