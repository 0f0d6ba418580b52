"""The GPUs of this machine, read through NVML, and which of them a job may use.

Only totals of whole devices are read: process ids from NVML are wrong in containers. Without NVML
no GPU is listed, and jobs run on the CPU.
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
_IDLE_BYTES = 1 << 30
_IDLE_SHARE = 0.05
"""Memory in use on an idle device: at most the larger of these."""
_NO_DEVICE = ("", "-1", "none", "void", "NoDevFiles")


@dataclass(frozen=True)
class Device:
    """A GPU; unknown values are None."""

    id: str
    name: str
    memory_used: int | None = None
    memory_total: int | None = None

    @property
    def crowded(self) -> bool:
        """Whether so much of its memory is in use that a program must be running on it."""
        if self.memory_used is None:
            return False
        share = _IDLE_SHARE * (self.memory_total or 0)
        return self.memory_used > max(_IDLE_BYTES, share)


class Devices:
    """Reads NVML, which may be missing, or appear later with a driver."""

    def __init__(self) -> None:
        """Load nothing yet."""
        self._lock = threading.Lock()
        self._nvml: Any = None
        self._retry_at = 0.0
        self.seen = False
        """Whether a device was ever listed; if none is listed now, the driver has failed."""

    def all(self) -> list[Device]:
        """The devices and their memory in use, in the order of the bus."""
        with self._lock:
            nvml = self._loaded()
            if nvml is None:
                return []
            try:
                count = int(nvml.nvmlDeviceGetCount())
            except Exception:
                # The driver was unloaded; it may be loaded again.
                self._nvml = None
                return []
            entries = [_device(nvml, index) for index in range(count)]
        devices = [device for device in entries if device is not None]
        self.seen = self.seen or bool(devices)
        return devices

    def _loaded(self) -> Any:
        if self._nvml is None and time.monotonic() >= self._retry_at:
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            # A driver that fails must not stop the engine.
            with contextlib.suppress(Exception):
                import pynvml

                pynvml.nvmlInit()
                self._nvml = pynvml
        return self._nvml


def visible_devices(
    devices: Sequence[Device],
    environment: Mapping[str, str],
    own: Mapping[str, str] = os.environ,
) -> list[Device]:
    """The devices that ``CUDA_VISIBLE_DEVICES`` names, in the run's environment or else our own.

    Raises:
        UsageError: if it names a device that does not exist.
    """
    wanted = _variable(environment, own)
    if wanted is None:
        return list(devices)
    visible: list[Device] = []
    for name in (part.strip() for part in wanted.split(",")):
        if name in _NO_DEVICE:
            break
        visible.append(_named(devices, name, wanted))
    return visible


def hides_all(environment: Mapping[str, str], own: Mapping[str, str] = os.environ) -> bool:
    """Whether ``CUDA_VISIBLE_DEVICES`` hides every device."""
    wanted = _variable(environment, own)
    return wanted is not None and wanted.split(",")[0].strip() in _NO_DEVICE


def _variable(environment: Mapping[str, str], own: Mapping[str, str]) -> str | None:
    return environment.get(VISIBLE, own.get(VISIBLE))


def _named(devices: Sequence[Device], name: str, wanted: str) -> Device:
    """A device by its index on the bus or (the beginning of) its UUID."""
    if name.isascii() and name.isdigit() and int(name) < len(devices):
        return devices[int(name)]
    if name.startswith("MIG-"):
        # A slice of a GPU: its memory is unknown, but it can be leased and used.
        return Device(name, "MIG device")
    matches = [d for d in devices if name.startswith("GPU-") and d.id.startswith(name)]
    if len(matches) != 1:
        known = ", ".join(d.id for d in devices) or "none"
        raise UsageError(
            f"{VISIBLE}={wanted} names {name}, which is not a GPU of this machine "
            f"(there are: {known}); cancel the run and submit it again with another"
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
    """Text of NVML; older versions of the library return bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
