"""Whether a job may start now: there has to be room on its disk, and a device that is free."""

import shutil
from pathlib import Path

from engine.contract.errors import UsageError
from engine.contract.states import Ending
from engine.daemon.devices import VISIBLE, Device, Devices, visible_devices
from engine.daemon.job_watch import JobWatch
from engine.daemon.leases import Allotted, Leases, Refused
from engine.daemon.settings import GIGABYTE, Settings
from engine.records.run_folder import RunFolder

_MORE_BYTES = 1 << 20
"""Free bytes come and go; only so many more are worth another try after a full disk."""


class Admission:
    """Looks at the disk and the devices; not safe to use from several threads."""

    def __init__(self, leases: Leases, devices: Devices, settings: Settings) -> None:
        """Nothing is known of jobs yet."""
        self._leases, self._devices, self._settings = leases, devices, settings
        self._found: list[Device] | None = None
        self._refused: dict[str | None, Refused] = {}
        """By what the user lets be seen, since the last look: leases only get fewer meanwhile."""
        self._free_when_full: dict[Path, int] = {}

    def look(self) -> None:
        """Ask for devices and leases anew when the next job wants one."""
        self._found = None
        self._refused.clear()

    def note_end(self, job: JobWatch) -> None:
        """An attempt that this engine saw alive has ended."""
        self.forgive(job.folder.path)
        if job.ending is Ending.FULL:
            self._free_when_full[job.folder.path] = free_bytes(job.folder.run.path)

    def forgive(self, job: Path) -> None:
        """Somebody asks for the job again, so it is tried whatever it ended in."""
        self._free_when_full.pop(job, None)

    def admit(self, job: JobWatch) -> Allotted | Refused:
        """Leases for the job, or why it has to wait."""
        return self._no_room(job) or self._allot(job)

    def _no_room(self, job: JobWatch) -> Refused | None:
        run = job.folder.run
        free, floor = free_bytes(run.path), self._settings.disk_floor
        if free < floor:
            reason = (
                f"waits for disk: {_gigabytes(free)} are free where {run.path} is, and new work "
                f"needs {_gigabytes(floor)} (MAGIC_DISK_FLOOR_GB); remove what you can spare, such "
                "as a trajectory: magic rm --trajectory RUN"
            )
            return Refused(reason, others=True)
        before = self._free_when_full.get(job.folder.path)
        if before is not None and free < before + _MORE_BYTES:
            reason = (
                f"waits for disk: it was full where {run.path} is, and no more is free now than "
                f"then ({_gigabytes(free)}); remove what you can spare, such as a trajectory: "
                "magic rm --trajectory RUN"
            )
            return Refused(reason, others=True)
        return None

    def _allot(self, job: JobWatch) -> Allotted | Refused:
        environment = job.request.environment
        visible = environment.get(VISIBLE)
        if visible in self._refused:
            return self._refused[visible]
        if self._found is None:
            self._found = self._devices.all()
        try:
            devices = visible_devices(self._found, environment) if self._found else []
            allotted = self._leases.allot(job.folder.run.path, devices)
        except UsageError as error:
            allotted = Refused(str(error), others=True)
        if isinstance(allotted, Refused):
            self._refused[visible] = allotted
        return allotted


def free_bytes(run: Path) -> int:
    """Bytes that are free for a run: its trajectory may have been moved to a disk of its own."""
    trajectory = RunFolder(run).trajectory
    places = [run, trajectory] if trajectory.is_dir() else [run]
    return min(shutil.disk_usage(place).free for place in places)


def _gigabytes(count: int) -> str:
    return f"{count / GIGABYTE:.3g} GB"
