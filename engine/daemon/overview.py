"""The engine and its machine, as the interface shows them."""

import contextlib
import os
import time

from engine.daemon.devices import Device, Devices
from engine.daemon.job_monitor import WAITING
from engine.daemon.leases import Leases
from engine.daemon.registry import Registry
from engine.daemon.run_index import RunIndex
from engine.daemon.slow_folders import RUN_SECONDS, HungError, Patience
from engine.daemon.telemetry import disk_free, host_memory
from engine.runs.api_schema import API_VERSION, DeviceView, EngineView
from engine.runs.environment import magic_version
from engine.runs.naming import runs_folder


class Overview:
    """Looks at the machine, and counts the jobs that were asked of the engine."""

    def __init__(
        self,
        library: RunIndex,
        registry: Registry,
        leases: Leases,
        devices: Devices,
        patience: Patience,
        disk_floor: int,
    ) -> None:
        """The engine starts now."""
        self._library, self._registry = library, registry
        self._leases, self._devices = leases, devices
        self._patience, self._disk_floor = patience, disk_floor
        self._began = time.time()

    def view(self, socket: str) -> EngineView:
        """All of it as it is now; ``socket`` is where the engine answers."""
        jobs = [
            job
            for watch in self._library.all()
            for job in watch.jobs
            if self._registry.position((watch.folder.path, job.number)) is not None
        ]
        used, total = host_memory()
        return EngineView(
            api_version=API_VERSION,
            version=magic_version(),
            pid=os.getpid(),
            started=self._began,
            socket=socket,
            devices=[self._device(device) for device in self._devices.all()],
            memory_used=used,
            memory_total=total,
            disk_free=self._disk_free(),
            disk_floor=self._disk_floor,
            queued=sum(job.state in WAITING for job in jobs),
            # Not what was last read of the jobs: a lease is held from the first moment on.
            running=len(self._leases.holders()),
        )

    def _disk_free(self) -> int:
        folder = runs_folder()
        with contextlib.suppress(HungError):
            return self._patience.do(folder, lambda: disk_free(folder), RUN_SECONDS) or 0
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
