"""The runs that the engine works on, and those of the folders that somebody looked at last."""

import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from engine.daemon.job_monitor import JobMonitor, changed_at, is_sure
from engine.daemon.views import RunMonitor
from engine.runs.api_schema import RUN_ID
from engine.runs.errors import NotFoundError
from engine.runs.listing import list_runs

_MOST_LOOKED_AT = 16
"""Folders; what is kept of any other is dropped, and read again when it is looked at."""


class RunIndex:
    """Keeps one :class:`RunMonitor` a run; safe to use from several threads.

    What is kept of a folder only spares reading it again: looking at one starts nothing there.
    """

    def __init__(self, not_asked: Callable[[JobMonitor], str | None] = lambda job: None) -> None:
        """Know no folder yet; ``not_asked`` says why the engine does not start a job."""
        self._not_asked = not_asked
        self._lock = threading.RLock()
        # Apart from the other: whoever counts a change may hold the lock of a run.
        self._counting = threading.Lock()
        self._folders: dict[Path, dict[Path, RunMonitor]] = {}
        self._stamps: dict[Path, int] = {}
        self._scanning: dict[Path, threading.Lock] = {}
        self._changes = 0
        self._followed: dict[Path, RunMonitor] = {}
        """The runs that the engine works on, whatever anybody looks at."""

    @property
    def changes(self) -> int:
        """Grows whenever a view changed, a run came or one went."""
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
        """The runs that are followed, and those of all folders that are kept."""
        with self._lock:
            kept = [watch for folder in self._folders.values() for watch in folder.values()]
            return list(dict.fromkeys([*self._followed.values(), *kept]))

    def follow(self, runs: Iterable[Path]) -> list[RunMonitor]:
        """Work on these runs and on no others, whether anything is there or not."""
        with self._lock:
            self._followed = {run: self._watched(run) for run in runs}
            return list(self._followed.values())

    def find(self, runs_dir: Path, run_id: str) -> RunMonitor:
        """The run of an id.

        Raises:
            NotFoundError: if there is none.
        """
        path = runs_dir / run_id
        # The id comes from outside, and becomes part of a path.
        if re.fullmatch(RUN_ID, run_id):
            if path not in self._folders.get(runs_dir, {}) or not path.is_dir():
                self._scan(runs_dir, again=True)
            with self._lock:
                watches = dict(self._folders.get(runs_dir, {}))
            renamed = (watch for watch in watches.values() if watch.folder.id == run_id)
            watch = watches.get(path) or next(renamed, None)
            if watch is not None:
                return watch
        raise NotFoundError(f"there is no run {run_id} in {runs_dir}; see: magic ls")

    def forget(self, watch: RunMonitor) -> None:
        """A run is gone."""
        with self._lock:
            self._followed.pop(watch.folder.path, None)
            if self._folders.get(watch.folder.path.parent, {}).pop(watch.folder.path, None):
                self.changed()
        watch.close()

    def recheck(self) -> None:
        """Look into every folder again, whatever its time of change says."""
        with self._lock:
            self._stamps.clear()

    def _watched(self, run: Path) -> RunMonitor:
        """The one watch of a run, a new one if there is none."""
        known = self._followed.get(run) or self._folders.get(run.parent, {}).get(run)
        return known or RunMonitor(run, self.changed, self._not_asked)

    def _drop_old(self) -> list[RunMonitor]:
        """Drop what is kept of the folders that were looked at first, beyond a few."""
        dropped: list[RunMonitor] = []
        for folder in list(self._folders)[:-_MOST_LOOKED_AT]:
            dropped += self._folders.pop(folder).values()
            self._stamps.pop(folder, None)
            self._scanning.pop(folder, None)
        return dropped

    def _scan(self, runs_dir: Path, again: bool = False) -> None:
        """Find the runs of a folder. Its disk is read under no lock but the folder's own."""
        with self._lock:
            scanning = self._scanning.setdefault(runs_dir, threading.Lock())
        with scanning:
            stamp = changed_at(runs_dir)
            known = self._folders.get(runs_dir)
            if known is not None and self._stamps.get(runs_dir) == stamp and not again:
                return
            found = [folder.path for folder in list_runs(runs_dir)]
            with self._lock:
                dropped = self._keep(runs_dir, found, stamp if is_sure([stamp]) else -1)
            # Whoever looks at one of them has its lock, maybe for long.
            for watch in dropped:
                watch.close()

    def _keep(self, runs_dir: Path, found: list[Path], stamp: int) -> list[RunMonitor]:
        """Keep what was found in a folder in place of what was known; returns what is dropped."""
        old = self._folders.get(runs_dir) or {}
        dropped = self._drop_old()
        self._folders[runs_dir] = {path: self._watched(path) for path in found}
        self._stamps[runs_dir] = stamp
        gone = [old[path] for path in old.keys() - set(found)]
        if gone or len(found) > len(old):
            self.changed()
        return dropped + gone
