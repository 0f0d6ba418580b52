"""Retrainings shared through a folder, by processes on any machine that sees the folder.

    waiting/NUMBER        a task that no job has taken
    taken/NUMBER@JOB      a task that a job works on: the same file, renamed atomically
    done/NUMBER           the result

A job takes the next task when it has finished one, so jobs that start late or die do not delay the
others. Only the process that created the pool moves results into the cache of retrainings.
"""

import contextlib
import os
import shutil
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.attribution.device import compute_as_before, set_up_device
from engine.attribution.prepare import restore_run
from engine.attribution.reporting import errors_with_remedy
from engine.evaluation.retraining import Retrained, Retrainer, Task
from engine.evaluation.subsets import Subset
from engine.runs.checksummed import read_record, write_record
from engine.runs.environment import keep_files_private
from engine.runs.errors import MagicError, unexpected
from engine.runs.run_folder import RunFolder


@dataclass(frozen=True)
class PoolTask:
    """A task with its number in the pool."""

    number: str
    task: Task


class TaskPool:
    """The tasks of one fan-out."""

    def __init__(self, folder: Path) -> None:
        """Use the pool in ``folder``; nothing is read yet."""
        self.folder = folder
        self._waiting, self._taken = folder / "waiting", folder / "taken"
        self._done = folder / "done"
        self._reported: set[str] = set()

    @classmethod
    def create(cls, folder: Path, tasks: Sequence[Task]) -> "TaskPool":
        """Create a pool whose tasks are taken in the given order."""
        pool = cls(folder)
        for each in (pool._waiting, pool._taken, pool._done):
            each.mkdir(parents=True)
        for number, (subset, model) in enumerate(tasks):
            record = {"subset": asdict(subset), "model": model}
            write_record(pool._waiting / f"{number:06}", record)
        return pool

    def claim(self, job: str) -> PoolTask | None:
        """The task that a job took before an interruption, or the next one that is waiting.

        None if no task is left, or the pool was removed.
        """
        for name in _file_names(self._taken):
            number, _, owner = name.partition("@")
            if owner == job and not (self._done / number).exists():
                return self._read(number, job)
        for number in _file_names(self._waiting):
            with contextlib.suppress(FileNotFoundError):
                os.rename(self._waiting / number, self._taken / f"{number}@{job}")
                return self._read(number, job)
        return None

    def finish(self, task: PoolTask, job: str, result: Retrained, warning: str | None) -> None:
        """Store the result of a task, with a warning about the machine that computed it."""
        write_record(self._done / task.number, {**asdict(result), "warning": warning})
        (self._taken / f"{task.number}@{job}").unlink(missing_ok=True)

    def release(self, job: str) -> None:
        """Return the unfinished tasks of a job to the waiting ones."""
        for name in _file_names(self._taken):
            number, _, owner = name.partition("@")
            if owner == job and not (self._done / number).exists():
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self._taken / name, self._waiting / number)

    def new_results(self) -> Iterator[tuple[Retrained, str | None]]:
        """The results since the last call, each with its warning."""
        for number in _file_names(self._done):
            if number not in self._reported:
                self._reported.add(number)
                record = _read_record(self._done / number)
                warning = record.pop("warning")
                yield Retrained(_subset(record.pop("subset")), **record), warning

    def remove(self) -> None:
        """Remove the folder; jobs that still run stop before their next task."""
        # A log that is being written may be left. The next validation removes it.
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, number: str, job: str) -> PoolTask:
        record = _read_record(self._taken / f"{number}@{job}")
        return PoolTask(number, (_subset(record["subset"]), record["model"]))


def abandoned_pools(folder: Path) -> Iterator[TaskPool]:
    """The pools in a folder, whose creators died or were stopped."""
    with contextlib.suppress(FileNotFoundError):
        for each in sorted(folder.iterdir()):
            yield TaskPool(each)


@dataclass(frozen=True)
class PoolJob:
    """What one job does: take tasks from a pool until none is left.

    submitit pickles it and calls it on the job's machine, which must see the run's folder.
    """

    run: Path
    pool: Path
    keep_models: bool
    visible_devices: str | None = None
    """``CUDA_VISIBLE_DEVICES`` of the job; None if the cluster sets it."""

    def __call__(self) -> str | None:
        """Retrain; returns why the job gave up, or None if no task is left."""
        keep_files_private()
        try:
            with errors_with_remedy():
                self._retrain()
        except MagicError as error:
            return str(error)
        except Exception as error:
            # The returned sentence is short; the traceback goes to the job's log.
            traceback.print_exc()
            return unexpected(error)
        return None

    def checkpoint(self) -> Any:
        """The job that submitit submits after a preemption or a timeout: the same one.

        It keeps its id, so it continues with the task that it had taken.
        """
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _retrain(self) -> None:
        from submitit import JobEnvironment

        pool, job = TaskPool(self.pool), str(JobEnvironment().job_id)
        task = pool.claim(job)
        if task is None:
            return
        if self.visible_devices is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.visible_devices
        folder, device = RunFolder(self.run), set_up_device()
        warning = compute_as_before(folder, device)
        retrainer = Retrainer(folder, restore_run(folder, device), self.keep_models)
        while task is not None:
            pool.finish(task, job, retrainer(task.task), warning)
            task = pool.claim(job)


def _read_record(file: Path) -> dict[str, Any]:
    record = read_record(file)
    if record is None:
        raise FileNotFoundError(file)
    return record


def _subset(record: dict[str, Any]) -> Subset:
    return Subset(record["name"], record["kind"], tuple(record["documents"]))


def _file_names(folder: Path) -> list[str]:
    """The complete files of a folder in order."""
    with contextlib.suppress(OSError):
        # NFS caches directory listings with the directory's attributes; setting these renews both.
        folder.chmod(folder.stat().st_mode)
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        return []
