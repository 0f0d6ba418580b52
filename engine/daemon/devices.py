"""The GPUs of this machine as NVML tells of them, and which of them a job may have.

NVML serves totals of whole devices only: process ids from it are wrong in containers. Without
NVML no GPU is known, and jobs take turns on the processor.
"""

import contextlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.runs.errors import UsageError

VISIBLE = "CUDA_VISIBLE_DEVICES"
_RETRY_SECONDS = 60.0
_LITTLE_BYTES = 1 << 30
_LITTLE_SHARE = 0.05
_NONE_AT_ALL = ("", "-1", "none", "void", "NoDevFiles")


@dataclass(frozen=True)
class Device:
    """A GPU; what is not known is None."""

    id: str
    name: str
    memory_used: int | None = None
    memory_total: int | None = None

    @property
    def crowded(self) -> bool:
        """Whether so much of its memory is taken that some program must be using it."""
        if self.memory_used is None:
            return False
        share = _LITTLE_SHARE * (self.memory_total or 0)
        return self.memory_used > max(_LITTLE_BYTES, share)


class Devices:
    """Asks NVML, which may be missing, or come later with a driver."""

    def __init__(self) -> None:
        """Ask nothing yet."""
        self._lock = threading.Lock()
        self._nvml: Any = None
        self._ask_again = 0.0
        self.seen = False
        """Whether there ever was one: where none is told of now, something is wrong."""

    def all(self) -> list[Device]:
        """The devices and their memory as it is now, in the order of the bus."""
        with self._lock:
            nvml = self._loaded()
            if nvml is None:
                return []
            try:
                count = int(nvml.nvmlDeviceGetCount())
            except Exception:
                # The driver went away; it may come back.
                self._nvml = None
                return []
            found = [_device(nvml, index) for index in range(count)]
        devices = [device for device in found if device is not None]
        self.seen = self.seen or bool(devices)
        return devices

    def _loaded(self) -> Any:
        if self._nvml is None and time.monotonic() >= self._ask_again:
            self._ask_again = time.monotonic() + _RETRY_SECONDS
            # Whatever is wrong with a driver must not keep the engine from its other work.
            with contextlib.suppress(Exception):
                import pynvml

                pynvml.nvmlInit()
                self._nvml = pynvml
        return self._nvml


def visible_devices(
    devices: Sequence[Device],
    asked: Mapping[str, str],
    own: Mapping[str, str] = os.environ,
) -> list[Device]:
    """The devices that $CUDA_VISIBLE_DEVICES leaves: that of whoever asked, else the engine's own.

    Raises:
        UsageError: if it names a device that is not there.
    """
    wanted = _wanted(asked, own)
    if wanted is None:
        return list(devices)
    chosen: list[Device] = []
    for name in (part.strip() for part in wanted.split(",")):
        if name in _NONE_AT_ALL:
            break
        chosen.append(_named(devices, name, wanted))
    return chosen


def wants_none(asked: Mapping[str, str], own: Mapping[str, str] = os.environ) -> bool:
    """Whether $CUDA_VISIBLE_DEVICES leaves no device, whatever there is."""
    wanted = _wanted(asked, own)
    return wanted is not None and wanted.split(",")[0].strip() in _NONE_AT_ALL


def _wanted(asked: Mapping[str, str], own: Mapping[str, str]) -> str | None:
    return asked.get(VISIBLE, own.get(VISIBLE))


def _named(devices: Sequence[Device], name: str, wanted: str) -> Device:
    """A device by its index on the bus or (the beginning of) its UUID."""
    if name.isascii() and name.isdigit() and int(name) < len(devices):
        return devices[int(name)]
    if name.startswith("MIG-"):
        # A slice of a GPU: nothing is known of it, but it can be leased and used.
        return Device(name, "MIG device")
    matches = [d for d in devices if name.startswith("GPU-") and d.id.startswith(name)]
    if len(matches) != 1:
        known = ", ".join(d.id for d in devices) or "none"
        raise UsageError(
            f"{VISIBLE}={wanted} names {name}, which is not a GPU of this machine "
            f"(there are: {known}); cancel the run and ask again with another"
        )
    return matches[0]


def _device(nvml: Any, index: int) -> Device | None:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        identifier = _text(nvml.nvmlDeviceGetUUID(handle))
    except Exception:
        return None
    name, used, total = "GPU", None, None
    with contextlib.suppress(Exception):
        name = _text(nvml.nvmlDeviceGetName(handle))
    with contextlib.suppress(Exception):
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        used, total = int(memory.used), int(memory.total)
    return Device(identifier, name, used, total)


def _text(value: Any) -> str:
    """Old versions of the library give bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
