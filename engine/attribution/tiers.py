"""How much of the trajectory stays in host memory."""

import os

import psutil

from engine.attribution.prepared_run import PreparedRun
from engine.trajectory.reader import state_tensors
from engine.trajectory.tensor_files import encoded_bytes

LEFT_SHARE = 0.5
"""Part of the free host memory that the trajectory takes beside a GPU."""
SLACK = 2**20
"""Bytes that the file of a state may take more if other ranks wrote it."""


def host_tier_bytes(job: PreparedRun) -> int:
    """Bytes of this machine's memory that this rank may hold of a trajectory.

    Unless the config says how much, a replay on a CPU has room to read one train state ahead: what
    the machine has free keeps the files in its cache anyway, and others may have it. A GPU would
    wait for tensors to be made of them.
    """
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", job.trainer.ranks.count))
    given = job.config.trajectory.memory_gb
    if given is not None:
        return int(given * 1e9) // ranks
    state = encoded_bytes(state_tensors(job.start, job.trainer.step.stage)) + SLACK
    if job.device.type == "cpu":
        return state
    free = psutil.virtual_memory().available // ranks
    return max(state, int(LEFT_SHARE * free))
