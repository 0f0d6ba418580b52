"""Leases: which run uses which GPU, or which CPU slot.

A lease is a locked file named after its device. The supervisor and the worker inherit the lock's
descriptor, so the lease ends with the last of their processes, also if the engine dies first.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.daemon.devices import Device


@dataclass(frozen=True)
class Allocation:
    """The devices that a job may start on, and the descriptors that hold their leases."""

    devices: list[str]
    descriptors: list[int]
    gpu: bool = True
    """Whether the job may use a GPU that NVML does not list; False if it was prepared without."""

    def release(self) -> None:
        """End the leases."""
        for descriptor in self.descriptors:
            os.close(descriptor)


@dataclass(frozen=True)
class Denied:
    """Why a job waits."""

    reason: str
    external: bool
    """Whether the cause is outside this engine's queue: the disk or another program."""


class Leases:
    """The lease files in a folder."""

    def __init__(self, folder: Path, cpu_runs: int = 1) -> None:
        """Use the files in ``folder``, which is created if missing."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._cpu_runs = cpu_runs

    def allocate(
        self, run: Path, devices: Sequence[Device], count: int | None = None
    ) -> Allocation | Denied:
        """Lease ``count`` of the devices, or all of them; without devices a CPU slot.

        Either all requested leases are taken or none.
        """
        if not devices:
            return self._allocate_cpu(run)
        count = len(devices) if count is None else count
        if count > len(devices):
            # words: off
            reason = f"it asks for {count} GPUs and there are {len(devices)}; lower devices.ranks"
            # words: on
            return Denied(f"waits for GPUs: {reason}", external=True)
        holders = [holder for d in devices if (holder := self.holder(d.id)) is not None]
        leased: dict[str, int] = {}
        for device in devices:
            if len(leased) < count and not device.crowded and self.holder(device.id) is None:
                descriptor = self._lease(device.id, run)
                if descriptor is not None:
                    leased[device.id] = descriptor
        if len(leased) == count:
            return Allocation(list(leased), list(leased.values()))
        for descriptor in leased.values():
            os.close(descriptor)
        for device in devices:
            if device.crowded and self.holder(device.id) is None:
                reason = (
                    f"waits for a GPU: other programs use {(device.memory_used or 0) / 1e9:.1f} GB "
                    f"of {device.name} ({device.id}); it starts when they end"
                )
                return Denied(reason, external=True)
        user = f"run {holders[0].name}" if holders else "another run"
        return Denied(f"waits for a GPU: {user} is using it", external=False)

    def holder(self, name: str) -> Path | None:
        """The folder of the run that holds a lease; None if the lease is free."""
        try:
            descriptor = os.open(self._file(name), os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _run_in_lease(os.read(descriptor, 1 << 16))
        finally:
            os.close(descriptor)
        return None

    def holders(self) -> list[Path]:
        """The folders of all runs that hold a lease."""
        holders = [self.holder(file.stem) for file in sorted(self._folder.glob("*.lease"))]
        return [holder for holder in holders if holder is not None]

    def _allocate_cpu(self, run: Path) -> Allocation | Denied:
        holder = None
        for slot in range(self._cpu_runs):
            descriptor = self._lease(f"cpu-{slot}", run)
            if descriptor is not None:
                return Allocation([], [descriptor])
            holder = holder or self.holder(f"cpu-{slot}")
        user = "another run" if holder is None else f"run {holder.name}"
        return Denied(f"waits for its turn: {user} is running", external=False)

    def _lease(self, name: str, run: Path) -> int | None:
        """A descriptor that holds the lease; None if another run holds it."""
        descriptor = os.open(self._file(name), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"run": str(run)}).encode())
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _file(self, name: str) -> Path:
        # A device's name comes from a driver or a user: it must stay one file name.
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        return self._folder / f"{safe}.lease"


def _run_in_lease(content: bytes) -> Path:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return Path(json.loads(content)["run"])
    return Path("unknown")
