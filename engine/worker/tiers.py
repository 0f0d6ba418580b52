"""How much of the trajectory stays in host memory beside what the replay needs itself."""

import os

import psutil
import torch

from engine.magic.schedule import ScheduleKind, make_schedule
from engine.worker.budget import MEMORY_SHARE
from engine.worker.job import Job

LEFT_SHARE = 0.5
"""Part of the host memory left over by the replay that the trajectory takes unless the config says
how much."""


def host_tier_bytes(job: Job, kind: ScheduleKind) -> int:
    """Bytes of this machine's memory that this rank may hold of a trajectory of a schedule."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", job.trainer.ranks.count))
    given = job.config.trajectory.memory_gb
    if given is not None:
        return int(given * 1e9) // ranks
    free = psutil.virtual_memory().available // ranks
    return int(LEFT_SHARE * max(0, free - _needs(job, kind, free)))


def _needs(job: Job, kind: ScheduleKind, free: int) -> int:
    """Host memory for the queries of a pass and the train states it holds; none on a GPU."""
    if job.device != torch.device("cpu"):
        return 0
    given = job.config.attribution.memory_budget_gb
    start, schedule = job.start, make_schedule(kind, len(job.order))
    leaves = job.trainer.step.stage.state_tensors(start.optimizer)
    state = sum(t.numel() * t.element_size() for t in (*start.params.values(), *leaves.values()))
    queries = int(given * 1e9) if given else int(MEMORY_SHARE * free)
    # Two more for a moment: s_T as it was trained and as the last step, taken again, gives it.
    return queries + (schedule.live_states + 2) * state
