"""Set up one rank: process group, mesh, free memory, staggered loading, consistency checks.

Loading and checking a model needs several times its memory; a rank that holds a shard needs less.
:func:`staggered_load` therefore loads on the first rank of each machine, agrees on a mesh, and lets
the ranks of a machine shard the model one at a time. If the mesh has one shard, every rank keeps
the whole model and no rank waits.
"""

import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist

from engine.distributed.local_ranks import LOCAL_RANK, RANK, RENDEZVOUS, WORLD_SIZE, is_rank
from engine.distributed.mesh import Mesh, ProcessRanks
from engine.replay.ranks import SINGLE_RANK, Ranks
from engine.runs.config import DevicesConfig
from engine.runs.errors import RunError, UsageError


def free_memory(device: torch.device) -> int:
    """Free bytes of a GPU, or of this machine's memory for a CPU."""
    if device.type == "cuda":
        # The driver counts torch's cached memory as used.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    return int(psutil.virtual_memory().available)


Loaded = TypeVar("Loaded")
Sharded = TypeVar("Sharded")

TIMEOUT = "MAGIC_COLLECTIVE_SECONDS"
TIMEOUT_SECONDS = 1800
"""Long enough for one rank to write a large state while the others wait."""
MEMORY_SHARE = 0.6
"""Fraction of a device's free memory available to states, gradients and cotangents."""
COPIES = 12
"""Parameter-sized tensors that the replay of one query holds: two Adam train states, a gradient, a
cotangent, the direction and its Hessian-vector product, and a margin."""


def join(device: torch.device) -> Ranks:
    """Join the process group of this job; returns all its ranks, or a single one.

    Raises:
        UsageError: if the timeout is not a number of seconds.
    """
    if not is_rank():
        return SINGLE_RANK
    if not dist.is_initialized():
        rank, count = int(os.environ[RANK]), int(os.environ[WORLD_SIZE])
        file = os.environ.get(RENDEZVOUS)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            init_method=f"file://{file}" if file else "env://",
            rank=rank,
            world_size=count,
            timeout=_timeout(),
        )
    return ProcessRanks()


def make_mesh(
    ranks: Ranks, devices: DevicesConfig, model: torch.nn.Module | None, on: torch.device
) -> Mesh:
    """The mesh of a config, the same on all ranks.

    ``shards: auto`` uses the fewest shards whose memory holds the replay of one query, so that
    there are as many replicas as possible.

    Args:
        ranks: all ranks of the job.
        devices: the config.
        model: the model on the ranks that have loaded it, at least one; None on the others.
        on: the device of this rank.

    Raises:
        UsageError: if the number of ranks is not a multiple of the number of shards.
    """
    shards = devices.shards
    if shards == "auto":
        local = None if model is None else _sizes(model)
        size, trained = next(sizes for sizes in ranks.all_gather(local) if sizes is not None)
        available = min(ranks.all_gather(MEMORY_SHARE * free_memory(on)))
        if on.type == "cpu":
            # The ranks of a machine share its memory.
            available /= ranks.count
        fitting = [
            count
            for count in range(1, ranks.count + 1)
            if ranks.count % count == 0 and (size + COPIES * trained) / count <= available
        ]
        shards = fitting[0] if fitting else ranks.count
    if ranks.count % shards:
        raise UsageError(
            f"devices.shards: {ranks.count} ranks cannot be divided into groups of {shards}; "
            "give a divisor of the number of ranks, or auto"
        )
    return Mesh(shards, on)


def _sizes(model: torch.nn.Module) -> tuple[int, int]:
    """Bytes of a model's parameters, and of its trainable parameters."""
    sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def check_same(ranks: Ranks, facts: Mapping[str, Any]) -> None:
    """Check that all ranks have the same values.

    Raises:
        RunError: if some differ; the message names the first.
    """
    gathered = ranks.all_gather(dict(facts))
    for name, value in gathered[0].items():
        for rank, other in enumerate(gathered):
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


def staggered_load(
    ranks: Ranks,
    load: Callable[[], Loaded],
    make_mesh: Callable[[Loaded | None], Mesh],
    shard: Callable[[Loaded, Mesh], Sharded],
) -> Sharded:
    """Load and shard a model; if it is sharded, the ranks of a machine load one after the other.

    Args:
        ranks: all ranks of the job.
        load: loads the whole model.
        make_mesh: the mesh, the same on all ranks. Called with the model on the first rank of each
            machine, with None on the others.
        shard: turns the model into the result; keeps one shard of it if the mesh has several.

    Returns:
        What ``shard`` returns.

    Raises:
        UsageError: on every rank, if the first rank of a machine cannot load the model.
    """
    local_rank = int(os.environ.get(LOCAL_RANK, ranks.index))
    model = _load_on_first_rank(ranks, load, local_rank)
    mesh = make_mesh(model)
    if mesh.shard_group.count == 1:
        return shard(load() if model is None else model, mesh)
    result = []
    for turn in range(1 + max(ranks.all_gather(local_rank))):
        if turn == local_rank:
            result.append(shard(load() if model is None else model, mesh))
            model = None
        ranks.barrier()
    return result[0]


def _load_on_first_rank(ranks: Ranks, load: Callable[[], Loaded], local_rank: int) -> Loaded | None:
    model, error = None, None
    if local_rank == 0:
        try:
            model = load()
        except UsageError as raised:
            error = raised
    for message in ranks.all_gather(None if error is None else str(error)):
        if message is not None:
            raise error or UsageError(message)
    return model
