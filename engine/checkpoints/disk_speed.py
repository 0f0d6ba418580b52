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

from engine.checkpoints.planner import DiskSeconds

MOST_BYTES = 2**26
"""Of a probe: larger ones take as long a byte."""
SYNCS = 3
"""A file is synced, then the folder it is renamed in, then the manifest that names it."""
_ROUNDS = 3


def measure_disk(folder: Path, size: int, device: torch.device) -> DiskSeconds:
    """Write and read files of about ``size`` bytes, as the trajectory does; nothing stays."""
    size = min(MOST_BYTES, max(size, 4096))
    probe = torch.rand(size // 4, device=device)
    write, work, read, sync = (
        statistics.median(seconds)
        for seconds in zip(*(_round(folder, probe) for _ in range(_ROUNDS)), strict=True)
    )
    return DiskSeconds(
        byte=max(write - sync, work) / size,
        byte_work=work / size if _all_processors_compute(device) else 0.0,
        read_byte=read / size,
        file=SYNCS * sync,
    )


def _round(folder: Path, probe: torch.Tensor) -> tuple[float, float, float, float]:
    """Seconds of writing, of the processor meanwhile, of reading, and of a sync alone."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        began, worked = time.perf_counter(), time.thread_time()
        data = encode({"probe": probe.cpu()})
        file.write(data)
        os.fsync(file.fileno())
        google_crc32c.value(data)
        work, write = time.thread_time() - worked, time.perf_counter() - began
        file.seek(0)
        began = time.perf_counter()
        data = file.read()
        google_crc32c.value(data)
        decode(data)["probe"].to(probe.device)
        read = time.perf_counter() - began
        file.write(b"\0")
        began = time.perf_counter()
        os.fsync(file.fileno())
        return write, work, read, time.perf_counter() - began


def _all_processors_compute(device: torch.device) -> bool:
    """Whether a thread that writes takes a processor away from the training."""
    if device.type != "cpu":
        return False
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return torch.get_num_threads() >= (there or 1)
