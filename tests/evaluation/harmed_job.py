"""A cluster job that sends itself a signal once, when it takes a given task."""

import os
from dataclasses import dataclass
from typing import Any

from engine.evaluation.task_pool import PoolJob, PoolTask, TaskPool

FOURTH = "000003"


@dataclass(frozen=True)
class HarmedJob(PoolJob):
    """As :class:`PoolJob`, but interrupted by ``signal`` with the fourth task in hand."""

    signal: int = 0

    def __call__(self) -> str | None:
        """Retrain; the first job that takes the fourth task is interrupted, and no other."""
        claim, marker = TaskPool.claim, self.run / "harmed"

        def harmed(pool: TaskPool, job: str) -> PoolTask | None:
            task = claim(pool, job)
            if task is not None and task.number == FOURTH and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), self.signal)
            return task

        patched: Any = TaskPool
        patched.claim = harmed
        return super().__call__()
