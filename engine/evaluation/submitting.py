"""Jobs of a cluster, submitted through submitit: which only this module and the jobs import."""

import contextlib
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.evaluation.share import Share
from engine.runs.checksummed import read_record, write_record
from engine.runs.errors import RunError, UsageError
from engine.runs.request import ValidationRequest

if TYPE_CHECKING:
    from submitit import AutoExecutor, Job

VISIBLE = "CUDA_VISIBLE_DEVICES"
SUBMITTED_FILE = "submitted.json"
SLURM_ID = re.compile(r"[0-9]+(_[0-9]+)?")
"""Of a job, or of one in an array."""
_HOUR, _MONTH = 60, 60 * 24 * 30
_OF_THE_EXECUTOR = ("_python", "_max_num_timeout")
"""Ends of options that submitit takes when an executor is made, and not of a job."""
_TASKS = ("nodes", "tasks_per_node", "ntasks_per_node")


def submit(asked: ValidationRequest, facts: dict[str, Any], share: Share, count: int) -> list[Any]:
    """Submit ``count`` jobs, each of which calls ``share``; returns submitit's jobs.

    Args:
        asked: the cluster, and the options of its jobs.
        facts: what the run was prepared on.
        share: what a job does.
        count: how many.

    Raises:
        UsageError: if submitit or the cluster is not there, or an option is wrong.
        RunError: if the cluster takes no jobs.
    """
    executor = _executor(asked, facts, share.pool)
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with _environment_of_no_job():
            jobs: list[Job[Any]] = executor.submit_array([share] * count)
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        said = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
        raise RunError(f"{asked.cluster} took no jobs: {said}; see --cluster-option") from None
    record = {"cluster": asked.cluster, "folder": str(share.pool)}
    ids = [str(job.job_id) for job in jobs]
    write_record(share.pool / SUBMITTED_FILE, {**record, "jobs": ids})
    return jobs


def jobs_of_a_lost_owner(pool: Path) -> list[str]:
    """The Slurm jobs that may still be at work on a pool whose owner is gone.

    A copy of a run has none: they are at work on the original. What is no id is passed over: the
    file may come from elsewhere.
    """
    try:
        record = read_record(pool / SUBMITTED_FILE) or {}
        ours = record["cluster"] == "slurm" and record["folder"] == str(pool)
        return [job for job in record["jobs"] if SLURM_ID.fullmatch(job)] if ours else []
    except (OSError, RunError, KeyError, TypeError):
        return []


def visible_devices(asked: ValidationRequest, facts: dict[str, Any]) -> str | None:
    """$CUDA_VISIBLE_DEVICES of a job; None if the cluster sets it."""
    if facts["device"] == "cpu":
        return ""
    if asked.cluster == "slurm" or "gpus_per_node" in asked.cluster_options:
        return None
    # submitit's local jobs see no device that was not asked for; these share the run's.
    return os.environ.get(VISIBLE, "0")


def _executor(asked: ValidationRequest, facts: dict[str, Any], folder: Path) -> "AutoExecutor":
    try:
        import submitit
    except ImportError:
        raise UsageError(
            f"--cluster {asked.cluster} needs submitit, which {sys.executable} on "
            f"{socket.gethostname()} does not have; install it there with: "
            "pip install submitit"
        ) from None
    options = asked.cluster_options
    for name in options:
        if name.removeprefix("slurm_").removeprefix("local_") in _TASKS:
            raise UsageError(f"--cluster-option {name}: a job is one process; raise --jobs instead")
    made_with = {n: value for n, value in options.items() if n.endswith(_OF_THE_EXECUTOR)}
    of_jobs = {n: _as_list(value) for n, value in options.items() if n not in made_with}
    try:
        executor = submitit.AutoExecutor(folder, cluster=asked.cluster, **made_with)
    except RuntimeError:
        raise UsageError(
            f"--cluster slurm: {socket.gethostname()}, where the engine runs, has no srun; start "
            "the engine where jobs can be submitted, or give --cluster local"
        ) from None
    except (AssertionError, TypeError) as error:
        raise _wrong(error) from None
    try:
        executor.update_parameters(**{**_defaults(asked, facts), **of_jobs})
    except (AssertionError, NameError, TypeError, ValueError) as error:
        raise _wrong(error) from None
    return executor


@contextlib.contextmanager
def _environment_of_no_job() -> Iterator[None]:
    """Hide the job, the ranks and the devices of this process: jobs have others.

    Where Slurm is configured holds for them too.
    """
    from submitit.helpers import clean_env

    configured = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with clean_env(extra_names=(VISIBLE,)):
        os.environ.update(configured)
        yield


def _defaults(asked: ValidationRequest, facts: dict[str, Any]) -> dict[str, Any]:
    """What a job gets that was not asked for: as much of a machine as the run was prepared on.

    submitit's own time limits are a few minutes.
    """
    if asked.cluster == "local":
        return {"timeout_min": _MONTH}
    given = " ".join(asked.cluster_options)
    defaults: dict[str, Any] = {"name": "magic", "timeout_min": _HOUR}
    if facts["device"] == "cuda" and "gpu" not in given and "gres" not in given:
        defaults["gpus_per_node"] = 1
    if facts["device"] == "cpu" and "cpus" not in given:
        defaults["cpus_per_task"] = facts["threads"]
    return defaults


def _as_list(value: Any) -> Any:
    """Options of several lines, such as ``slurm_setup``, are lists to submitit."""
    return list(value) if isinstance(value, tuple) else value


def _wrong(error: Exception) -> UsageError:
    return UsageError(f"--cluster-option: {str(error).splitlines()[0]}")
