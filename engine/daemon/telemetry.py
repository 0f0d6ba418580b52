"""What the machine is used for at the moment."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from engine.runs.api_schema import EngineView, Telemetry


def host_memory() -> tuple[int, int]:
    """Bytes of this machine's memory in use, and in all."""
    memory = psutil.virtual_memory()
    return memory.total - memory.available, memory.total


def disk_free(folder: Path) -> int | None:
    """Bytes that the user may still write where ``folder`` is, or will be; None if unknown."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def telemetry(view: EngineView, runs_dir: Path) -> Telemetry:
    """The machine's figures in ``view`` with the disk of a runs folder."""
    return Telemetry(
        memory_used=view.memory_used,
        memory_total=view.memory_total,
        disk_free=disk_free(runs_dir),
        devices=view.devices,
    )


class Shared:
    """A view of the engine that many streams may ask for at once, made once a second."""

    def __init__(self, make: Callable[[], EngineView], seconds: float = 1.0) -> None:
        """Keep what ``make`` gives for ``seconds``."""
        self._make, self._seconds = make, seconds
        self._lock = threading.Lock()
        self._made: tuple[float, EngineView] | None = None

    def __call__(self) -> EngineView:
        """The view, at most that old."""
        with self._lock:
            now = time.monotonic()
            if self._made is None or now - self._made[0] >= self._seconds:
                self._made = (now, self._make())
            return self._made[1]
