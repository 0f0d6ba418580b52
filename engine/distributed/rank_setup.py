"""This process as one of several ranks: how they meet, divide the work, and notice differences."""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from engine.distributed.free_memory import free_memory
from engine.distributed.local_ranks import MEETING, RANK, WORLD_SIZE, is_rank
from engine.distributed.mesh import Mesh, ProcessRanks
from engine.replay.ranks import ALONE, Ranks
from engine.runs.config import DevicesConfig
from engine.runs.errors import RunError, UsageError

TIMEOUT = "MAGIC_COLLECTIVE_SECONDS"
TIMEOUT_SECONDS = 1800
"""A rank may write a large state while the others wait."""
MEMORY_SHARE = 0.6
"""Part of a device's free memory that states, cotangents and the like may take."""
COPIES = 12
"""Parameter-sized tensors a replay of one query holds: a train state of Adam and the one before,
its gradient, the cotangent of both, the direction and the product, with room to spare."""


def join(device: torch.device) -> Ranks:
    """Meet the other ranks of this job, if it has several; returns all of them.

    Raises:
        UsageError: if the time-out is no number.
    """
    if not is_rank():
        return ALONE
    if not dist.is_initialized():
        rank, count = int(os.environ[RANK]), int(os.environ[WORLD_SIZE])
        meeting = os.environ.get(MEETING)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            init_method=f"file://{meeting}" if meeting else "env://",
            rank=rank,
            world_size=count,
            timeout=_timeout(),
        )
    return ProcessRanks()


def divided(
    ranks: Ranks, devices: DevicesConfig, model: torch.nn.Module | None, on: torch.device
) -> Mesh:
    """The mesh of a config for a model, the same on all ranks; some of them have it.

    ``shards: auto`` divides the model among as few ranks as its replay needs, so that the others
    work on other queries.

    Raises:
        UsageError: if the ranks are no whole number of groups.
    """
    shards = devices.shards
    if shards == "auto":
        own = None if model is None else _sizes(model)
        size, trained = next(sizes for sizes in ranks.everyone(own) if sizes is not None)
        room = min(ranks.everyone(MEMORY_SHARE * free_memory(on)))
        if on.type == "cpu":
            # Ranks of one machine share its memory.
            room /= ranks.count
        fitting = [
            count
            for count in range(1, ranks.count + 1)
            if ranks.count % count == 0 and (size + COPIES * trained) / count <= room
        ]
        shards = fitting[0] if fitting else ranks.count
    if ranks.count % shards:
        raise UsageError(
            f"devices.shards: {ranks.count} ranks are no whole number of groups of {shards}; "
            "give a divisor of their number, or auto"
        )
    return Mesh(shards, on)


def _sizes(model: torch.nn.Module) -> tuple[int, int]:
    """Bytes of a model's parameters, and of those that are trained."""
    sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def check_same(ranks: Ranks, facts: Mapping[str, Any]) -> None:
    """Refuse to work with ranks that see something else.

    Raises:
        RunError: naming the first difference.
    """
    everyone = ranks.everyone(dict(facts))
    for name, value in everyone[0].items():
        for rank, other in enumerate(everyone):
            if other.get(name) != value:
                raise RunError(
                    f"rank {rank} disagrees with rank 0 about {name}: {other.get(name)} there, "
                    f"{value} here; give all ranks the same files and the same installation"
                )


def _timeout() -> timedelta:
    text = os.environ.get(TIMEOUT, str(TIMEOUT_SECONDS))
    try:
        seconds = float(text)
        if seconds <= 0:
            raise ValueError
    except ValueError:
        raise UsageError(f"{TIMEOUT} is {text!r}; give a number of seconds") from None
    return timedelta(seconds=seconds)
