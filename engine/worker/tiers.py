"""How much of the trajectory stays in host memory beside what the replay needs itself."""

import os

import psutil

from engine.worker.job import Job

LEFT_SHARE = 0.5
"""Part of the free host memory that the trajectory takes beside a GPU."""
HEADER = 2**20
"""Bytes of a file besides its tensors, at most."""


def host_tier_bytes(job: Job) -> int:
    """Bytes of this machine's memory that this rank may hold of a trajectory.

    Unless the config says how much, a replay on a CPU has room to read one train state ahead: what
    the machine has free keeps the files in its cache anyway, and others may have it. A GPU would
    wait for tensors to be made of them.
    """
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", job.trainer.ranks.count))
    given = job.config.trajectory.memory_gb
    if given is not None:
        return int(given * 1e9) // ranks
    start = job.start
    leaves = job.trainer.step.stage.state_tensors(start.optimizer)
    state = sum(t.numel() * t.element_size() for t in (*start.params.values(), *leaves.values()))
    if job.device.type == "cpu":
        return state + HEADER
    free = psutil.virtual_memory().available // ranks
    return max(state + HEADER, int(LEFT_SHARE * free))
