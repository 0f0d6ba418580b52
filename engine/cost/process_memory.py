"""Memory in use, and its peak, of this process and its device."""

import contextlib
import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

_earlier_peak = 0
"""The peak before the system's counter was last reset."""


def peak_memory(device: torch.device) -> int:
    """Peak bytes that this process has used on the device; on a CPU, in host memory."""
    return max(_earlier_peak, _counted_peak(device))


def current_memory(device: torch.device) -> int:
    """Bytes that this process uses on the device now; on a CPU, in host memory."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def added_peak(device: torch.device, work: Callable[[], object]) -> int:
    """Peak bytes that ``work`` adds to what is in use. Resets the system's peak counter."""
    global _earlier_peak
    release_memory()
    _earlier_peak, before = peak_memory(device), current_memory(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            # Linux resets the process's peak.
            Path("/proc/self/clear_refs").write_text("5")
    work()
    return max(0, _counted_peak(device) - before)


def release_memory() -> None:
    """Return freed memory to the system; the C library and torch otherwise keep it."""
    gc.collect()
    torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _counted_peak(device: torch.device) -> int:
    """Peak bytes since the counter was last reset."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource

    # Linux counts in kibibytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
