"""Measure how long a trajectory's files take on the disk of the runs."""

import os
import statistics
import tempfile
import time
from pathlib import Path

import google_crc32c
import torch
from safetensors.torch import load as decode
from safetensors.torch import save as encode
from torch import Tensor

from engine.cost.measured import DiskSeconds

MAX_BYTES = 2**26
"""Largest test file; larger files take as long a byte."""
SYNCS = 3
"""Syncs a file: the file, its folder after the rename, and the manifest that names it."""
_ROUNDS = 3


def measure_disk(folder: Path, size: int, device: torch.device) -> DiskSeconds:
    """Write and read test files of about ``size`` bytes in ``folder``; removes them.

    Args:
        folder: where the trajectory will be written.
        size: bytes of a train state's file.
        device: where the tensors are.
    """
    size = min(MAX_BYTES, max(size, 4096))
    tensor = torch.rand(size // 4, device=device)
    # All rounds append to one file, so that each uses pages that nothing used before.
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        rounds = [_round(file.fileno(), tensor) for _ in range(_ROUNDS)]
    write, work, read, sync = map(statistics.median, zip(*rounds, strict=True))
    delays_training = _uses_all_processors(device)
    return DiskSeconds(
        byte=max(write - sync, work) / size,
        byte_work=(work + _allocation_seconds(size)) / size if delays_training else 0.0,
        read_byte=read / size,
        file=SYNCS * sync,
    )


def _round(file: int, tensor: Tensor) -> tuple[float, float, float, float]:
    """Seconds of writing, of the processor while writing, of reading, and of one sync."""
    start = os.lseek(file, 0, os.SEEK_END)
    began, worked = time.perf_counter(), time.thread_time()
    data = encode({"tensor": tensor.cpu()})
    size = os.write(file, data)
    os.fsync(file)
    google_crc32c.value(data)
    work, write = time.thread_time() - worked, time.perf_counter() - began
    began = time.perf_counter()
    data = os.pread(file, size, start)
    google_crc32c.value(data)
    decode(data)["tensor"].to(tensor.device)
    read = time.perf_counter() - began
    os.write(file, b"\0")
    began = time.perf_counter()
    os.fsync(file)
    return write, work, read, time.perf_counter() - began


def _allocation_seconds(size: int) -> float:
    """Seconds of allocating ``size`` bytes: memory that is queued for writing is not reused."""
    began = time.perf_counter()
    torch.ones(size // 4)
    return time.perf_counter() - began


def _uses_all_processors(device: torch.device) -> bool:
    """Whether the training uses every processor, so that a writing thread slows it down."""
    if device.type != "cpu":
        return False
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return torch.get_num_threads() >= (count or 1)
