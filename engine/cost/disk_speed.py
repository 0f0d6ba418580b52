"""How long files of a trajectory take on the disk they will lie on."""

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

from engine.cost.checkpointing_choice import DiskSeconds

MOST_BYTES = 2**26
"""Of a file written to time the disk: larger ones take as long a byte."""
SYNCS = 3
"""A file is synced, then the folder it is renamed in, then the manifest that names it."""
_ROUNDS = 3


def measure_disk(folder: Path, size: int, device: torch.device) -> DiskSeconds:
    """Write and read files of about ``size`` bytes, as a trajectory's are; nothing stays."""
    size = min(MOST_BYTES, max(size, 4096))
    probe = torch.rand(size // 4, device=device)
    # One after the other in one file: each takes pages that nothing used before it.
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        rounds = [_round(file.fileno(), probe) for _ in range(_ROUNDS)]
    write, work, read, sync = map(statistics.median, zip(*rounds, strict=True))
    is_felt = _all_processors_compute(device)
    return DiskSeconds(
        byte=max(write - sync, work) / size,
        byte_work=(work + _fresh_seconds(size)) / size if is_felt else 0.0,
        read_byte=read / size,
        file=SYNCS * sync,
    )


def _round(file: int, probe: Tensor) -> tuple[float, float, float, float]:
    """Seconds of writing, of the processor meanwhile, of reading, and of a sync alone."""
    start = os.lseek(file, 0, os.SEEK_END)
    began, worked = time.perf_counter(), time.thread_time()
    data = encode({"probe": probe.cpu()})
    size = os.write(file, data)
    os.fsync(file)
    google_crc32c.value(data)
    work, write = time.thread_time() - worked, time.perf_counter() - began
    began = time.perf_counter()
    data = os.pread(file, size, start)
    google_crc32c.value(data)
    decode(data)["probe"].to(probe.device)
    read = time.perf_counter() - began
    os.write(file, b"\0")
    began = time.perf_counter()
    os.fsync(file)
    return write, work, read, time.perf_counter() - began


def _fresh_seconds(size: int) -> float:
    """What waits to be written is not there to be used again: memory is taken anew."""
    began = time.perf_counter()
    torch.ones(size // 4)
    return time.perf_counter() - began


def _all_processors_compute(device: torch.device) -> bool:
    """Whether a thread that writes takes a processor away from the training."""
    if device.type != "cpu":
        return False
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return torch.get_num_threads() >= (there or 1)
