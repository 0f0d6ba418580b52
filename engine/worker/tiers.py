"""How much of the trajectory stays in host memory beside what the replay needs itself."""

import os

import psutil

from engine.magic.schedule import ScheduleKind, make_schedule
from engine.worker.budget import MEMORY_SHARE
from engine.worker.job import Job

LEFT_SHARE = 0.5
"""Part of the host memory left over by the replay that the trajectory takes unless the config says
how much."""


def host_tier_bytes(job: Job, kind: ScheduleKind) -> int:
    """Bytes of this machine's memory that this rank may hold of a trajectory of a schedule.

    Unless the config says otherwise there is room at least to read one train state ahead.
    """
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", job.trainer.ranks.count))
    given = job.config.trajectory.memory_gb
    if given is not None:
        return int(given * 1e9) // ranks
    start = job.start
    leaves = job.trainer.step.stage.state_tensors(start.optimizer)
    state = sum(t.numel() * t.element_size() for t in (*start.params.values(), *leaves.values()))
    free = psutil.virtual_memory().available // ranks
    # On a GPU the replay takes none of it.
    needed = _needed(job, kind, free, state) if job.device.type == "cpu" else 0
    # A file has a header beside the state.
    return max(state + 2**20, int(LEFT_SHARE * (free - needed)))


def _needed(job: Job, kind: ScheduleKind, free: int, state: int) -> int:
    """Memory for the queries of a pass, and the train states that it holds."""
    given = job.config.attribution.memory_budget_gb
    queries = int(given * 1e9) if given else int(MEMORY_SHARE * free)
    # Two more for a moment: s_T as it was trained and as the last step, taken again, gives it.
    return queries + (make_schedule(kind, len(job.order)).live_states + 2) * state
