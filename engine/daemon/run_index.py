"""An index of run monitors: of the runs in the queue, and of the folders requested last."""

import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from engine.daemon.job_monitor import JobMonitor, is_reliable, modified_at
from engine.daemon.run_monitor import RunMonitor
from engine.runs.api_schema import RUN_ID
from engine.runs.errors import NotFoundError
from engine.runs.listing import list_runs

_CACHED_FOLDERS = 16


class RunIndex:
    """One :class:`RunMonitor` a run; thread-safe.

    The monitors of a folder are a cache: requests about a folder start nothing in it. Only the
    folders requested last are cached.
    """

    def __init__(
        self, unqueued_reason: Callable[[JobMonitor], str | None] = lambda job: None
    ) -> None:
        """Start empty; ``unqueued_reason`` returns why the engine does not start a job."""
        self._unqueued_reason = unqueued_reason
        self._lock = threading.RLock()
        # A second lock: a caller of changed() may hold the lock of a monitor.
        self._counting = threading.Lock()
        self._folders: dict[Path, dict[Path, RunMonitor]] = {}
        self._stamps: dict[Path, int] = {}
        self._scanning: dict[Path, threading.Lock] = {}
        self._changes = 0
        self._tracked: dict[Path, RunMonitor] = {}
        """The runs in the queue, whichever folders are cached."""

    @property
    def changes(self) -> int:
        """A count of changed views, new runs and removed runs."""
        return self._changes

    def changed(self) -> None:
        """Count a change."""
        with self._counting:
            self._changes += 1

    def runs(self, runs_dir: Path) -> list[RunMonitor]:
        """The runs in a folder, oldest first."""
        self._scan(runs_dir)
        with self._lock:
            return list(self._folders.get(runs_dir, {}).values())

    def all(self) -> list[RunMonitor]:
        """The tracked runs, and those of all cached folders."""
        with self._lock:
            cached = [monitor for folder in self._folders.values() for monitor in folder.values()]
            return list(dict.fromkeys([*self._tracked.values(), *cached]))

    def track(self, runs: Iterable[Path]) -> list[RunMonitor]:
        """Track exactly these runs, whether their folders exist or not."""
        with self._lock:
            self._tracked = {run: self._monitor(run) for run in runs}
            return list(self._tracked.values())

    def find(self, runs_dir: Path, run_id: str) -> RunMonitor:
        """The run of an id.

        Raises:
            NotFoundError: if there is none.
        """
        path = runs_dir / run_id
        # The id comes from a request and becomes part of a path.
        if re.fullmatch(RUN_ID, run_id):
            if path not in self._folders.get(runs_dir, {}) or not path.is_dir():
                self._scan(runs_dir, again=True)
            with self._lock:
                monitors = dict(self._folders.get(runs_dir, {}))
            renamed = (monitor for monitor in monitors.values() if monitor.folder.id == run_id)
            monitor = monitors.get(path) or next(renamed, None)
            if monitor is not None:
                return monitor
        raise NotFoundError(f"there is no run {run_id} in {runs_dir}; see: magic ls")

    def remove(self, monitor: RunMonitor) -> None:
        """Drop a run that was removed."""
        with self._lock:
            self._tracked.pop(monitor.folder.path, None)
            if self._folders.get(monitor.folder.path.parent, {}).pop(monitor.folder.path, None):
                self.changed()
        monitor.close()

    def recheck(self) -> None:
        """Scan every folder at its next request, also if its modification time is unchanged."""
        with self._lock:
            self._stamps.clear()

    def _monitor(self, run: Path) -> RunMonitor:
        """The monitor of a run, a new one if there is none."""
        cached = self._tracked.get(run) or self._folders.get(run.parent, {}).get(run)
        return cached or RunMonitor(run, self.changed, self._unqueued_reason)

    def _scan(self, runs_dir: Path, again: bool = False) -> None:
        """Find the runs of a folder; reads the disk under the folder's own lock only."""
        with self._lock:
            scanning = self._scanning.setdefault(runs_dir, threading.Lock())
        with scanning:
            stamp = modified_at(runs_dir)
            known = self._folders.get(runs_dir)
            if known is not None and self._stamps.get(runs_dir) == stamp and not again:
                return
            paths = [folder.path for folder in list_runs(runs_dir)]
            with self._lock:
                dropped = self._store(runs_dir, paths, stamp if is_reliable([stamp]) else -1)
            # Outside the lock: a request may hold a monitor's own lock for long.
            for monitor in dropped:
                monitor.close()

    def _store(self, runs_dir: Path, paths: list[Path], stamp: int) -> list[RunMonitor]:
        """Replace the cached runs of a folder; returns the monitors that were dropped."""
        old = self._folders.get(runs_dir) or {}
        dropped = self._evict()
        self._folders[runs_dir] = {path: self._monitor(path) for path in paths}
        self._stamps[runs_dir] = stamp
        gone = [old[path] for path in old.keys() - set(paths)]
        if gone or len(paths) > len(old):
            self.changed()
        return dropped + gone

    def _evict(self) -> list[RunMonitor]:
        """Drop the oldest cached folders beyond the limit."""
        dropped: list[RunMonitor] = []
        for folder in list(self._folders)[:-_CACHED_FOLDERS]:
            dropped += self._folders.pop(folder).values()
            self._stamps.pop(folder, None)
            self._scanning.pop(folder, None)
        return dropped
