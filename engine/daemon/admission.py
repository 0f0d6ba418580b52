"""Whether a job may start now: there has to be room on its disk, and a device that is free."""

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from engine.daemon.devices import VISIBLE, Device, Devices, visible_devices, wants_none
from engine.daemon.job_monitor import JobMonitor
from engine.daemon.leases import Allocation, Denied, Leases
from engine.daemon.settings import Settings
from engine.runs.errors import MagicError, RunError, UsageError
from engine.runs.run_folder import RunFolder
from engine.runs.states import Ending

_MORE_BYTES = 1 << 20
"""Free bytes come and go; only so many more are worth another try after a full disk."""


class Admission:
    """Looks at the disk and the devices; not safe to use from several threads."""

    def __init__(self, leases: Leases, devices: Devices, settings: Settings) -> None:
        """Nothing is known of jobs yet."""
        self._leases, self._devices, self._settings = leases, devices, settings
        self._found: list[Device] | None = None
        self._refused: dict[tuple[str | None, str | None, int | None], Denied] = {}
        """By what the user lets be seen and what the run was prepared on, since the last look:
        leases only get fewer meanwhile."""
        self._free_when_full: dict[Path, int] = {}

    def look(self) -> None:
        """Ask for devices and leases anew when the next job wants one."""
        self._found = None
        self._refused.clear()

    def note_end(self, job: JobMonitor) -> None:
        """An attempt that this engine saw alive has ended."""
        self.reset_failures(job.folder.path)
        if job.ending is Ending.FULL:
            self._free_when_full[job.folder.path] = free_bytes(job.folder.run.path)

    def reset_failures(self, job: Path) -> None:
        """Somebody asks for the job again, so it is tried whatever it ended in."""
        self._free_when_full.pop(job, None)

    def admit(self, job: JobMonitor) -> Allocation | Denied:
        """Leases for the job, or why it has to wait."""
        return self._no_room(job) or self._allot(job)

    def _no_room(self, job: JobMonitor) -> Denied | None:
        run = job.folder.run
        free, floor = free_bytes(run.path), self._settings.disk_floor
        if free < floor:
            reason = (
                f"waits for disk: {_size(free)} are free where {run.path} is, and new work "
                f"needs {_size(floor)} (MAGIC_DISK_FLOOR_GB); free some (magic ls shows what "
                "each run takes)"
            )
            return Denied(reason, others=True)
        before = self._free_when_full.get(job.folder.path)
        if before is not None and free < before + _MORE_BYTES:
            reason = (
                f"waits for disk: it was full where {run.path} is, and no more is free now than "
                f"then ({_size(free)}); free some (magic ls shows what each run takes)"
            )
            return Denied(reason, others=True)
        return None

    def _allot(self, job: JobMonitor) -> Allocation | Denied:
        environment, prepared = job.request.environment, _prepared_device(job.folder.run)
        if job.request.elsewhere:
            # Whoever only keeps the books needs no GPU, and may be where there is none.
            prepared = "cpu"
        ranks = _ranks(job.folder.run)
        asked = (environment.get(VISIBLE), prepared, ranks)
        if asked in self._refused:
            return self._refused[asked]
        allotted = self._find(job.folder.run, environment, prepared, ranks)
        if isinstance(allotted, Denied):
            self._refused[asked] = allotted
        return allotted

    def _find(
        self,
        run: RunFolder,
        environment: Mapping[str, str],
        prepared: str | None,
        ranks: int | None,
    ) -> Allocation | Denied:
        if prepared == "cpu":
            # The same numbers come out only where they came out before.
            allotted = self._leases.allot(run.path, [])
            return replace(allotted, gpu=False) if isinstance(allotted, Allocation) else allotted
        if self._found is None:
            self._found = self._devices.all()
        try:
            devices = visible_devices(self._found, environment) if self._found else []
        except UsageError as error:
            return Denied(str(error), others=True)
        if not devices:
            missing = self._missing(environment, prepared)
            if missing is not None:
                return Denied(f"waits for a GPU: {missing}", others=True)
        return self._leases.allot(run.path, devices, ranks)

    def _missing(self, environment: Mapping[str, str], prepared: str | None) -> str | None:
        """Why a job may not do without a GPU; None if it may."""
        chosen = wants_none(environment)
        if prepared == "cuda" and chosen:
            return f"it began on one and cannot go on without, but {VISIBLE} leaves it none"
        if prepared == "cuda":
            return "it began on one and cannot go on without, but none is known; see nvidia-smi"
        if self._devices.seen and not chosen:
            return "there were some, but the driver tells of none any more; see nvidia-smi"
        return None


def _ranks(run: RunFolder) -> int | None:
    """How many devices a run asks for; a config that cannot be read is for its rank to tell."""
    with contextlib.suppress(MagicError):
        return run.config().devices.ranks
    return None


def free_bytes(run: Path) -> int:
    """Bytes that are free for a run: its trajectory may have been moved to a disk of its own."""
    trajectory = RunFolder(run).trajectory
    places = [run, trajectory] if trajectory.is_dir() else [run]
    return min(shutil.disk_usage(place).free for place in places)


def _prepared_device(run: RunFolder) -> str | None:
    """What a run was prepared on; None before that, or if it was not noted."""
    # A damaged file is for the worker to tell.
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
