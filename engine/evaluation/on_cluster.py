"""Retrainings as jobs of a cluster; the bits are those of one process on machines of one kind.

The jobs share a pool in the run's folder. The process that owns the bank looks there for what they
have finished, and cancels them when it ends before they do.
"""

import contextlib
import subprocess
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

from engine.attribution.reporting import Reporter
from engine.evaluation.pool import Pool, left_over
from engine.evaluation.retraining import Retrained, Task
from engine.evaluation.share import Share
from engine.evaluation.submitting import jobs_of_a_lost_owner, submit, visible_devices
from engine.runs.errors import RunError
from engine.runs.events import Event
from engine.runs.request import ValidationRequest
from engine.runs.run_folder import RunFolder

LATE_SECONDS = {"slurm": 15.0, "local": 0.0}
"""How much later than a job's end its files may be seen: another machine wrote them."""
_LOOK_SECONDS = {"slurm": 1.0, "local": 0.1}
ASK_SECONDS = 60.0
"""How often Slurm is asked which jobs it still has: one that was killed says nothing itself."""
_END_SECONDS = 15.0
"""How long jobs that find nothing left to do may take to end by themselves."""
_CANCEL_SECONDS = 5.0


def on_cluster(
    folder: RunFolder, tasks: Sequence[Task], asked: ValidationRequest, report: Reporter
) -> Generator[Retrained, None, None]:
    """Do tasks in jobs of a cluster; each as it is done.

    Raises:
        UsageError: if they cannot be submitted as asked.
        RunError: if all jobs ended and something is left: what went wrong in the first.
    """
    assert asked.cluster is not None
    pool = Pool.make(folder.cluster_jobs / uuid.uuid4().hex[:8], tasks)
    try:
        facts = folder.prepared()
        visible = visible_devices(asked, facts)
        share = Share(folder.path, pool.folder, asked.keep_models, visible)
        jobs = _Jobs(asked.cluster, submit(asked, facts, share, min(asked.jobs, len(tasks))))
    except BaseException:
        # Whatever was submitted by then stops for want of it.
        pool.remove()
        raise
    try:
        report(Event.SUBMITTED, cluster=asked.cluster, jobs=jobs.ids, folder=str(pool.folder))
        yield from _results(pool, jobs, len(tasks), report)
        jobs.let_end()
    finally:
        jobs.cancel()
    pool.remove()


def finished_by_lost_owners(folder: RunFolder) -> Iterator[Retrained]:
    """What jobs finished and their owner, lost or giving up, did not take; they are cancelled."""
    for pool in left_over(folder.cluster_jobs):
        _cancel_in_slurm(jobs_of_a_lost_owner(pool.folder))
        for retrained, _ in pool.finished():
            yield retrained
        pool.remove()


def _results(pool: Pool, jobs: "_Jobs", count: int, report: Reporter) -> Iterator[Retrained]:
    failures: list[str] = []
    told: set[str] = set()
    while True:
        for job, why in jobs.ended():
            pool.release(job)
            if why is not None:
                failures.append(why)
        # After the jobs: what they finished last is there by the time that they have ended.
        for retrained, warning in pool.finished():
            if warning is not None and warning not in told:
                told.add(warning)
                report(Event.WARNING, message=f"on a machine of the cluster: {warning}")
            count -= 1
            yield retrained
        if count == 0:
            return
        if not jobs.at_work:
            why = failures[0] if failures else "the jobs ended before all was done"
            raise RunError(f"{why}; what was finished is kept, and validating again goes on")
        for why in failures:
            if why not in told:
                told.add(why)
                report(Event.WARNING, message=f"{why}; the other jobs go on")
        time.sleep(jobs.look_seconds)


class _Jobs:
    """The jobs of one fan-out, and which of them are still at work or waiting for it."""

    def __init__(self, cluster: str, jobs: Sequence[Any]) -> None:
        self.ids = [str(job.job_id) for job in jobs]
        self.look_seconds = _LOOK_SECONDS[cluster]
        self._cluster = cluster
        self._working = dict(zip(self.ids, jobs, strict=True))
        self._ended: dict[str, float] = {}
        self._gone: set[str] = set()
        self._asked = time.monotonic()

    @property
    def at_work(self) -> bool:
        """Whether any is."""
        return bool(self._working)

    def ended(self) -> Iterator[tuple[str, str | None]]:
        """Those that ended since this was asked last, each with what went wrong if anything did."""
        now = time.monotonic()
        if self._cluster == "slurm" and now >= self._asked + ASK_SECONDS:
            # submitit asks sacct, which knows nothing on a cluster without accounting.
            self._asked, self._gone = now, _gone_from_slurm(self._working)
        for name, job in list(self._working.items()):
            if not (job.done() or name in self._gone):
                # A job that was lost may be queued again.
                self._ended.pop(name, None)
                continue
            late = now - self._ended.setdefault(name, now) >= LATE_SECONDS[self._cluster]
            if late or job.paths.result_pickle.exists():
                del self._working[name]
                yield name, self._why(name, job)

    def let_end(self) -> None:
        """Wait a little for those that find nothing left to do."""
        deadline = time.monotonic() + _END_SECONDS
        self._wait(deadline)

    def cancel(self) -> None:
        """Cancel those that have not ended."""
        if self._cluster == "slurm":
            _cancel_in_slurm(self._working)
            return
        for job in self._working.values():
            job.cancel()
        self._wait(time.monotonic() + _CANCEL_SECONDS)

    def _wait(self, deadline: float) -> None:
        while True:
            for _ in self.ended():
                pass
            if not self._working or time.monotonic() >= deadline:
                return
            time.sleep(self.look_seconds)

    def _why(self, name: str, job: Any) -> str | None:
        """What went wrong in a job that ended."""
        log = job.paths.stderr if job.paths.stderr.exists() else job.paths.stdout
        if not job.paths.result_pickle.exists():
            known = self._cluster == "slurm" and job.state != "UNKNOWN"
            state = f" ({job.state})" if known else ""
            what = f"ended before its work was done{state}, perhaps for want of memory or time"
        else:
            try:
                said = job.result()
            except Exception:
                # submitit's own sentence is the whole log.
                what = "could not begin"
            else:
                if said is None:
                    return None
                what = f"gave up: {said}"
        return f"job {name} on {self._cluster} {what}; its log is {log}"


def _gone_from_slurm(jobs: Iterable[str]) -> set[str]:
    """Which jobs neither wait nor run any more; none if Slurm does not answer."""
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
    try:
        told = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return set()
    return set(jobs).difference(told.stdout.decode().split())


def _cancel_in_slurm(jobs: Iterable[str]) -> None:
    """Cancel jobs in one call, whatever has become of them."""
    if ids := list(jobs):
        with contextlib.suppress(OSError):
            subprocess.run(["scancel", "--", *ids], stdin=subprocess.DEVNULL, check=False)
