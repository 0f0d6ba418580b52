"""Whether the kernel killed for want of memory: counters that rise when it does."""

import contextlib
from pathlib import Path

_MEMBERSHIP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_VMSTAT = Path("/proc/vmstat")


class MemoryKills:
    """The kernel's counters as they stood when this was made."""

    def __init__(self) -> None:
        """Read the counters of this machine and of this process's control groups."""
        self._files = [_VMSTAT, *_group_files()]
        self._before = [_count(path) for path in self._files]

    def happened(self) -> bool:
        """Whether any counter has risen since."""
        return any(
            _count(path) > before for path, before in zip(self._files, self._before, strict=True)
        )


def _group_files() -> list[Path]:
    """Where the control groups, of either version, count their kills."""
    found = []
    with contextlib.suppress(OSError):
        for line in _MEMBERSHIP.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            group = group.lstrip("/")
            if not controllers:
                found.append(_CGROUPS / group / "memory.events")
            elif "memory" in controllers.split(","):
                found.append(_CGROUPS / "memory" / group / "memory.oom_control")
    return found


def _count(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0
