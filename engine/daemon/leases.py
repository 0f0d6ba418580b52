"""Leases: which run has which GPU, or which of the places for work without one.

A lease is a locked file named after its device. The lock's descriptor goes to the supervisor and
the rank, so a lease ends with the last of their processes, whatever becomes of the engine.
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
    """A job may start: these are its devices, and the descriptors that hold their leases."""

    devices: list[str]
    descriptors: list[int]
    gpu: bool = True
    """Whether it may use a GPU that nobody knows of: not if it was prepared without one."""

    def give_back(self) -> None:
        """Let go of the leases."""
        for descriptor in self.descriptors:
            os.close(descriptor)


@dataclass(frozen=True)
class Denied:
    """A job has to wait."""

    reason: str
    others: bool
    """Whether programs that are not ours are in the way, and not just runs before it."""


class Leases:
    """The lease files in a folder."""

    def __init__(self, folder: Path, cpu_runs: int = 1) -> None:
        """Keep them in ``folder``, which is made if missing."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._cpu_runs = cpu_runs

    def allot(
        self, run: Path, devices: Sequence[Device], count: int | None = None
    ) -> Allocation | Denied:
        """Leases on ``count`` of the devices, all of them if left out; all or none are taken.

        Without any device, one of the places on the processor.
        """
        if not devices:
            return self._allot_cpu(run)
        count = len(devices) if count is None else count
        if count > len(devices):
            reason = f"it asks for {count} GPUs and there are {len(devices)}; lower devices.ranks"
            return Denied(f"waits for GPUs: {reason}", others=True)
        holders = [holder for d in devices if (holder := self.holder(d.id)) is not None]
        chosen: dict[str, int] = {}
        for device in devices:
            if len(chosen) < count and not device.crowded and self.holder(device.id) is None:
                descriptor = self._take(device.id, run)
                if descriptor is not None:
                    chosen[device.id] = descriptor
        if len(chosen) == count:
            return Allocation(list(chosen), list(chosen.values()))
        for descriptor in chosen.values():
            os.close(descriptor)
        for device in devices:
            if device.crowded and self.holder(device.id) is None:
                reason = (
                    f"waits for a GPU: other programs use {(device.memory_used or 0) / 1e9:.1f} GB "
                    f"of {device.name} ({device.id}); it starts when they end"
                )
                return Denied(reason, others=True)
        at_work = f"run {holders[0].name}" if holders else "another run"
        return Denied(f"waits for a GPU: {at_work} is using it", others=False)

    def holder(self, name: str) -> Path | None:
        """The folder of the run that holds a lease; None if it is free."""
        try:
            descriptor = os.open(self._file(name), os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _noted(os.read(descriptor, 1 << 16))
        finally:
            os.close(descriptor)
        return None

    def holders(self) -> list[Path]:
        """The folders of all runs that hold a lease."""
        found = [self.holder(file.stem) for file in sorted(self._folder.glob("*.lease"))]
        return [holder for holder in found if holder is not None]

    def _allot_cpu(self, run: Path) -> Allocation | Denied:
        holder = None
        for slot in range(self._cpu_runs):
            descriptor = self._take(f"cpu-{slot}", run)
            if descriptor is not None:
                return Allocation([], [descriptor])
            holder = holder or self.holder(f"cpu-{slot}")
        at_work = "another run" if holder is None else f"run {holder.name}"
        return Denied(f"waits for its turn: {at_work} is at work", others=False)

    def _take(self, name: str, run: Path) -> int | None:
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


def _noted(content: bytes) -> Path:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return Path(json.loads(content)["run"])
    return Path("unknown")
