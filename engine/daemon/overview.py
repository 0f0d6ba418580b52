"""The engine and its machine: memory, disk, devices and the length of the queue."""

import contextlib
import os
import shutil
import time
from pathlib import Path

import psutil

from engine.daemon.devices import Device, Devices
from engine.daemon.job_monitor import WAITING
from engine.daemon.leases import Leases
from engine.daemon.registry import Registry
from engine.daemon.run_index import RunIndex
from engine.daemon.slow_folders import RUN_SECONDS, FolderTimeouts, HungError
from engine.runs.api_schema import API_VERSION, DeviceView, EngineView, Telemetry
from engine.runs.environment import magic_version
from engine.runs.paths import runs_folder


class Overview:
    """Reads the machine's figures, and counts the jobs in the queue."""

    def __init__(
        self,
        index: RunIndex,
        registry: Registry,
        leases: Leases,
        devices: Devices,
        timeouts: FolderTimeouts,
        disk_floor: int,
    ) -> None:
        """The engine starts now."""
        self._index, self._registry = index, registry
        self._leases, self._devices = leases, devices
        self._timeouts, self._disk_floor = timeouts, disk_floor
        self._started = time.time()

    def view(self, socket: str) -> EngineView:
        """The present figures; ``socket`` is the path at which the engine answers."""
        jobs = [
            job
            for monitor in self._index.all()
            for job in monitor.jobs
            if self._registry.position((monitor.folder.path, job.number)) is not None
        ]
        used, total = host_memory()
        return EngineView(
            api_version=API_VERSION,
            version=magic_version(),
            pid=os.getpid(),
            started=self._started,
            socket=socket,
            devices=[self._device(device) for device in self._devices.all()],
            memory_used=used,
            memory_total=total,
            disk_free=self._disk_free(),
            disk_floor=self._disk_floor,
            queued=sum(job.state in WAITING for job in jobs),
            # Leases are taken before the first look at a job's new state.
            running=len(self._leases.holders()),
        )

    def _disk_free(self) -> int:
        folder = runs_folder()
        with contextlib.suppress(HungError):
            return self._timeouts.call(folder, lambda: disk_free(folder), RUN_SECONDS) or 0
        return 0

    def _device(self, device: Device) -> DeviceView:
        holder = self._leases.holder(device.id)
        return DeviceView(
            id=device.id,
            name=device.name,
            memory_used=device.memory_used,
            memory_total=device.memory_total,
            run=None if holder is None else holder.name,
        )


def host_memory() -> tuple[int, int]:
    """Bytes of this machine's memory in use, and in total."""
    memory = psutil.virtual_memory()
    return memory.total - memory.available, memory.total


def disk_free(folder: Path) -> int | None:
    """Bytes that the user may still write in ``folder``, which need not exist; None if unknown."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def telemetry(view: EngineView, runs_dir: Path) -> Telemetry:
    """The machine's figures in ``view``, with the free space on the disk of a runs folder."""
    return Telemetry(
        memory_used=view.memory_used,
        memory_total=view.memory_total,
        disk_free=disk_free(runs_dir),
        devices=view.devices,
    )
