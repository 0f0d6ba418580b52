"""Decide whether a job may start now: its disk needs free space, and a device must be free."""

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from engine.daemon.devices import VISIBLE, Device, Devices, hides_all, visible_devices
from engine.daemon.job_monitor import JobMonitor
from engine.daemon.leases import Allocation, Denied, Leases
from engine.daemon.settings import Settings
from engine.runs.errors import MagicError, RunError, UsageError
from engine.runs.run_folder import RunFolder
from engine.runs.states import Ending

_RETRY_BYTES = 1 << 20
"""After a full disk, a job is retried once this many more bytes are free."""


class Admission:
    """Checks disks and devices; not thread-safe."""

    def __init__(self, leases: Leases, devices: Devices, settings: Settings) -> None:
        """Start without jobs."""
        self._leases, self._devices, self._settings = leases, devices, settings
        self._device_list: list[Device] | None = None
        self._denials: dict[tuple[str | None, str | None, int | None], Denied] = {}
        """Denials since the last :meth:`refresh`, by visible devices, kind of device and count.
        Within one round of the scheduler leases are only taken, so a denial stays valid."""
        self._free_when_full: dict[Path, int] = {}

    def refresh(self) -> None:
        """Read devices and leases again at the next request."""
        self._device_list = None
        self._denials.clear()

    def record_end(self, job: JobMonitor) -> None:
        """An attempt that this engine saw running has ended."""
        self.reset_failures(job.folder.path)
        if job.ending is Ending.FULL:
            self._free_when_full[job.folder.path] = free_bytes(job.folder.run.path)

    def reset_failures(self, job: Path) -> None:
        """Retry the job even if no more disk is free than when the disk was full."""
        self._free_when_full.pop(job, None)

    def admit(self, job: JobMonitor) -> Allocation | Denied:
        """Leases for the job, or the reason why it waits."""
        return self._disk_denial(job) or self._allocate(job)

    def _disk_denial(self, job: JobMonitor) -> Denied | None:
        run = job.folder.run
        free, floor = free_bytes(run.path), self._settings.disk_floor
        if free < floor:
            reason = (
                f"waits for disk: {_size(free)} are free where {run.path} is, and new work "
                f"needs {_size(floor)} (MAGIC_DISK_FLOOR_GB); free some (magic ls lists the size "
                "of each run)"
            )
            return Denied(reason, external=True)
        before = self._free_when_full.get(job.folder.path)
        if before is not None and free < before + _RETRY_BYTES:
            reason = (
                f"waits for disk: it was full where {run.path} is, and no more is free now than "
                f"then ({_size(free)}); free some (magic ls lists the size of each run)"
            )
            return Denied(reason, external=True)
        return None

    def _allocate(self, job: JobMonitor) -> Allocation | Denied:
        environment, prepared = job.request.environment, _prepared_device(job.folder.run)
        if job.request.elsewhere:
            # Cluster jobs compute; this machine only collects their results and needs no GPU.
            prepared = "cpu"
        ranks = _ranks(job.folder.run)
        key = (environment.get(VISIBLE), prepared, ranks)
        if key in self._denials:
            return self._denials[key]
        allocation = self._lease_devices(job.folder.run, environment, prepared, ranks)
        if isinstance(allocation, Denied):
            self._denials[key] = allocation
        return allocation

    def _lease_devices(
        self,
        run: RunFolder,
        environment: Mapping[str, str],
        prepared: str | None,
        ranks: int | None,
    ) -> Allocation | Denied:
        if prepared == "cpu":
            # Another kind of device would change the numbers.
            allocation = self._leases.allocate(run.path, [])
            if isinstance(allocation, Denied):
                return allocation
            return replace(allocation, gpu=False)
        if self._device_list is None:
            self._device_list = self._devices.all()
        try:
            devices = visible_devices(self._device_list, environment) if self._device_list else []
        except UsageError as error:
            return Denied(str(error), external=True)
        if not devices:
            missing = self._missing_gpu(environment, prepared)
            if missing is not None:
                return Denied(f"waits for a GPU: {missing}", external=True)
        return self._leases.allocate(run.path, devices, ranks)

    def _missing_gpu(self, environment: Mapping[str, str], prepared: str | None) -> str | None:
        """Why a job cannot run without a GPU; None if it can."""
        hidden = hides_all(environment)
        if prepared == "cuda" and hidden:
            return f"it began on one and cannot continue on cpu, but {VISIBLE} leaves it none"
        if prepared == "cuda":
            return "it began on one and cannot continue on cpu, but none is listed; see nvidia-smi"
        if self._devices.seen and not hidden:
            return "the driver listed some before and lists none now; see nvidia-smi"
        return None


def _ranks(run: RunFolder) -> int | None:
    """The number of devices a run needs; None if its config is unreadable (the worker reports)."""
    with contextlib.suppress(MagicError):
        return run.config().devices.ranks
    return None


def free_bytes(run: Path) -> int:
    """Free bytes for a run, whose trajectory may be a link to another disk."""
    trajectory = RunFolder(run).trajectory
    folders = [run, trajectory] if trajectory.is_dir() else [run]
    return min(shutil.disk_usage(folder).free for folder in folders)


def _prepared_device(run: RunFolder) -> str | None:
    """The kind of device that a run was prepared on; None before that."""
    # The worker reports a damaged file.
    with contextlib.suppress(RunError):
        device = run.prepared().get("device")
        return None if device is None else str(device)
    return None


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
