"""Retrainings as cluster jobs, submitted with submitit to Slurm or as local processes.

The jobs share a task pool in the run's folder. The process that validates collects their results,
and cancels the jobs if it stops before they do. On machines of one kind the results have the same
bits as those of one process.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.attribution.reporting import Reporter
from engine.evaluation.retraining import Retrained, Task
from engine.evaluation.task_pool import PoolJob, TaskPool, abandoned_pools
from engine.runs.checksummed import read_record, write_record
from engine.runs.errors import RunError, UsageError
from engine.runs.events import Event
from engine.runs.request import ValidationRequest
from engine.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from submitit import AutoExecutor, Job

LATE_SECONDS = {"slurm": 15.0, "local": 0.0}
"""How long after a job's end its files may appear, if another machine wrote them."""
_POLL_SECONDS = {"slurm": 1.0, "local": 0.1}
SQUEUE_SECONDS = 60.0
"""Seconds between calls of squeue, which detects killed jobs on clusters without accounting."""
_END_SECONDS = 15.0
"""How long jobs without tasks may take to end before they are cancelled."""
_CANCEL_SECONDS = 5.0
VISIBLE = "CUDA_VISIBLE_DEVICES"
SUBMITTED_FILE = "submitted.json"
_SLURM_ID = re.compile(r"[0-9]+(_[0-9]+)?")
"""Id of a job, or of one in an array."""
_HOUR, _MONTH = 60, 60 * 24 * 30
_EXECUTOR_OPTIONS = ("_python", "_max_num_timeout")
"""Suffixes of the options that submitit takes for an executor, not for a job."""
_TASK_OPTIONS = ("nodes", "tasks_per_node", "ntasks_per_node")


def retrain_on_cluster(
    folder: RunFolder, tasks: Sequence[Task], request: ValidationRequest, report: Reporter
) -> Generator[Retrained, None, None]:
    """Do tasks in cluster jobs, and yield each result as it arrives.

    Raises:
        UsageError: if the jobs cannot be submitted as requested.
        RunError: if all jobs ended before all tasks; the message is the first job's failure.
    """
    assert request.cluster is not None
    pool = TaskPool.create(folder.cluster_jobs / uuid.uuid4().hex[:8], tasks)
    try:
        facts = folder.prepared()
        job = PoolJob(
            folder.path, pool.folder, request.keep_models, visible_devices(request, facts)
        )
        submitted = submit(request, facts, job, min(request.jobs, len(tasks)))
        jobs = _Jobs(request.cluster, submitted)
    except BaseException:
        # Without the pool, jobs that were submitted before the failure stop at once.
        pool.remove()
        raise
    try:
        report(Event.SUBMITTED, cluster=request.cluster, jobs=jobs.ids, folder=str(pool.folder))
        yield from _results(pool, jobs, len(tasks), report)
        jobs.wait_for_end()
    finally:
        jobs.cancel()
    pool.remove()


def abandoned_results(folder: RunFolder) -> Iterator[Retrained]:
    """Results that an interrupted validation did not collect; its jobs are cancelled."""
    for pool in abandoned_pools(folder.cluster_jobs):
        _scancel(abandoned_slurm_jobs(pool.folder))
        for retrained, _ in pool.new_results():
            yield retrained
        pool.remove()


def submit(
    request: ValidationRequest, facts: dict[str, Any], pool_job: PoolJob, count: int
) -> list[Any]:
    """Submit ``count`` jobs that each call ``pool_job``.

    Args:
        request: the cluster, and the options of its jobs.
        facts: the run's preparation record: device and threads.
        pool_job: what a job calls.
        count: number of jobs.

    Returns:
        The jobs of submitit.

    Raises:
        UsageError: if submitit or the cluster is missing, or an option is wrong.
        RunError: if the cluster rejects the jobs.
    """
    executor = _executor(request, facts, pool_job.pool)
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with _clean_environment():
            jobs: list[Job[Any]] = executor.submit_array([pool_job] * count)
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        reason = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
        raise RunError(
            f"{request.cluster} rejected the jobs: {reason}; see --cluster-option"
        ) from None
    record = {"cluster": request.cluster, "folder": str(pool_job.pool)}
    ids = [str(job.job_id) for job in jobs]
    write_record(pool_job.pool / SUBMITTED_FILE, {**record, "jobs": ids})
    return jobs


def abandoned_slurm_jobs(pool: Path) -> list[str]:
    """Ids of the Slurm jobs that may still work on an abandoned pool.

    Empty for a pool in a copied run: its jobs work on the original. Anything that is not a job id
    is ignored, because the file may come from another user.
    """
    try:
        record = read_record(pool / SUBMITTED_FILE) or {}
        is_own = record["cluster"] == "slurm" and record["folder"] == str(pool)
        return [job for job in record["jobs"] if _SLURM_ID.fullmatch(job)] if is_own else []
    except (OSError, RunError, KeyError, TypeError):
        return []


def visible_devices(request: ValidationRequest, facts: dict[str, Any]) -> str | None:
    """``CUDA_VISIBLE_DEVICES`` of a job; None if the cluster sets it."""
    if facts["device"] == "cpu":
        return ""
    if request.cluster == "slurm" or "gpus_per_node" in request.cluster_options:
        return None
    # submitit hides all devices from local jobs that request none; these share the run's devices.
    return os.environ.get(VISIBLE, "0")


def _results(pool: TaskPool, jobs: "_Jobs", count: int, report: Reporter) -> Iterator[Retrained]:
    failures: list[str] = []
    reported: set[str] = set()
    while True:
        for job, failure in jobs.newly_ended():
            pool.release(job)
            if failure is not None:
                failures.append(failure)
        # Results are read after the jobs' states: an ended job has written its last result.
        for retrained, warning in pool.new_results():
            if warning is not None and warning not in reported:
                reported.add(warning)
                report(Event.WARNING, message=f"on a machine of the cluster: {warning}")
            count -= 1
            yield retrained
        if count == 0:
            return
        if not jobs.running:
            failure = failures[0] if failures else "the jobs ended before all retrainings"
            raise RunError(f"{failure}; finished retrainings are kept: validate again to continue")
        for failure in failures:
            if failure not in reported:
                reported.add(failure)
                report(Event.WARNING, message=f"{failure}; the other jobs continue")
        time.sleep(jobs.poll_seconds)


class _Jobs:
    """The jobs of one fan-out and which of them have not ended."""

    def __init__(self, cluster: str, jobs: Sequence[Any]) -> None:
        self.ids = [str(job.job_id) for job in jobs]
        self.poll_seconds = _POLL_SECONDS[cluster]
        self._cluster = cluster
        self._running = dict(zip(self.ids, jobs, strict=True))
        self._end_times: dict[str, float] = {}
        self._lost: set[str] = set()
        self._squeue_time = time.monotonic()

    @property
    def running(self) -> bool:
        """Whether any job runs or is queued."""
        return bool(self._running)

    def newly_ended(self) -> Iterator[tuple[str, str | None]]:
        """The jobs that ended since the last call, each with its failure, if it failed."""
        now = time.monotonic()
        if self._cluster == "slurm" and now >= self._squeue_time + SQUEUE_SECONDS:
            # submitit calls sacct, which reports nothing on a cluster without accounting.
            self._squeue_time, self._lost = now, _not_in_squeue(self._running)
        for name, job in list(self._running.items()):
            if not (job.done() or name in self._lost):
                # Slurm may requeue a job that seemed lost.
                self._end_times.pop(name, None)
                continue
            is_late = now - self._end_times.setdefault(name, now) >= LATE_SECONDS[self._cluster]
            if is_late or job.paths.result_pickle.exists():
                del self._running[name]
                yield name, self._failure(name, job)

    def wait_for_end(self) -> None:
        """Wait some seconds for jobs without tasks."""
        self._wait(time.monotonic() + _END_SECONDS)

    def cancel(self) -> None:
        """Cancel the jobs that have not ended."""
        if self._cluster == "slurm":
            _scancel(self._running)
            return
        for job in self._running.values():
            job.cancel()
        self._wait(time.monotonic() + _CANCEL_SECONDS)

    def _wait(self, deadline: float) -> None:
        while True:
            for _ in self.newly_ended():
                pass
            if not self._running or time.monotonic() >= deadline:
                return
            time.sleep(self.poll_seconds)

    def _failure(self, name: str, job: Any) -> str | None:
        """Why an ended job failed; None if it did not."""
        log = job.paths.stderr if job.paths.stderr.exists() else job.paths.stdout
        if not job.paths.result_pickle.exists():
            is_known = self._cluster == "slurm" and job.state != "UNKNOWN"
            state = f" ({job.state})" if is_known else ""
            what = f"ended before its work was done{state}; memory or time may have run out"
        else:
            try:
                reason = job.result()
            except Exception:
                # submitit's message is the whole log.
                what = "could not start"
            else:
                if reason is None:
                    return None
                what = f"gave up: {reason}"
        return f"job {name} on {self._cluster} {what}; its log is {log}"


def _not_in_squeue(jobs: Iterable[str]) -> set[str]:
    """The jobs that neither wait nor run; empty if Slurm does not answer."""
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
    try:
        answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return set()
    return set(jobs).difference(answer.stdout.decode().split())


def _scancel(jobs: Iterable[str]) -> None:
    """Cancel Slurm jobs in one call; ended ones are ignored."""
    if ids := list(jobs):
        with contextlib.suppress(OSError):
            subprocess.run(["scancel", "--", *ids], stdin=subprocess.DEVNULL, check=False)


def _executor(request: ValidationRequest, facts: dict[str, Any], folder: Path) -> "AutoExecutor":
    try:
        import submitit
    except ImportError:
        raise UsageError(
            f"--cluster {request.cluster} needs submitit, which {sys.executable} on "
            f"{socket.gethostname()} does not have; install it there with: "
            "pip install submitit"
        ) from None
    options = request.cluster_options
    for name in options:
        if name.removeprefix("slurm_").removeprefix("local_") in _TASK_OPTIONS:
            raise UsageError(f"--cluster-option {name}: a job is one process; raise --jobs instead")
    of_executor = {n: value for n, value in options.items() if n.endswith(_EXECUTOR_OPTIONS)}
    # submitit takes options of several lines, such as slurm_setup, as lists.
    of_jobs = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in options.items()
        if name not in of_executor
    }
    try:
        executor = submitit.AutoExecutor(folder, cluster=request.cluster, **of_executor)
    except RuntimeError:
        raise UsageError(
            f"--cluster slurm: {socket.gethostname()}, where the engine runs, has no srun; start "
            "the engine where jobs can be submitted, or give --cluster local"
        ) from None
    except (AssertionError, TypeError) as error:
        raise _wrong_option(error) from None
    try:
        executor.update_parameters(**{**_default_options(request, facts), **of_jobs})
    except (AssertionError, NameError, TypeError, ValueError) as error:
        raise _wrong_option(error) from None
    return executor


@contextlib.contextmanager
def _clean_environment() -> Iterator[None]:
    """Hide this process's own job, ranks and devices from the jobs it submits; keep SLURM_CONF."""
    from submitit.helpers import clean_env

    slurm_conf = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with clean_env(extra_names=(VISIBLE,)):
        os.environ.update(slurm_conf)
        yield


def _default_options(request: ValidationRequest, facts: dict[str, Any]) -> dict[str, Any]:
    """Resources like those of the run, and a longer time limit than submitit's few minutes."""
    if request.cluster == "local":
        return {"timeout_min": _MONTH}
    given = " ".join(request.cluster_options)
    defaults: dict[str, Any] = {"name": "magic", "timeout_min": _HOUR}
    if facts["device"] == "cuda" and "gpu" not in given and "gres" not in given:
        defaults["gpus_per_node"] = 1
    if facts["device"] == "cpu" and "cpus" not in given:
        defaults["cpus_per_task"] = facts["threads"]
    return defaults


def _wrong_option(error: Exception) -> UsageError:
    return UsageError(f"--cluster-option: {str(error).splitlines()[0]}")
