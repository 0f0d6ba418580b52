"""All runs in the runs folders that the engine knows."""

import re
import threading
from pathlib import Path

from engine.contract.api import RUN_ID
from engine.contract.errors import NotFoundError
from engine.daemon.job_watch import changed_at, is_sure
from engine.daemon.views import RunWatch
from engine.records.runs import list_runs


class Library:
    """Keeps one :class:`RunWatch` a run; safe to use from several threads."""

    def __init__(self) -> None:
        """Know no folder yet."""
        self._lock = threading.RLock()
        # Apart from the other: whoever counts a change may hold the lock of a run.
        self._counting = threading.Lock()
        self._folders: dict[Path, dict[Path, RunWatch]] = {}
        self._stamps: dict[Path, int] = {}
        self._changes = 0

    @property
    def changes(self) -> int:
        """Grows whenever a view changed, a run came or one went."""
        return self._changes

    def changed(self) -> None:
        """Count a change."""
        with self._counting:
            self._changes += 1

    def runs(self, runs_dir: Path) -> list[RunWatch]:
        """The runs in a folder, oldest first."""
        with self._lock:
            self._scan(runs_dir)
            return list(self._folders[runs_dir].values())

    def all(self) -> list[RunWatch]:
        """The known runs in all folders."""
        with self._lock:
            return [watch for folder in self._folders.values() for watch in folder.values()]

    def find(self, runs_dir: Path, run_id: str) -> RunWatch:
        """The run of an id.

        Raises:
            NotFoundError: if there is none.
        """
        path = runs_dir / run_id
        # The id comes from outside, and becomes part of a path.
        if re.fullmatch(RUN_ID, run_id):
            with self._lock:
                if path not in self._folders.get(runs_dir, {}) or not path.is_dir():
                    self._scan(runs_dir, again=True)
                watch = self._folders[runs_dir].get(path)
            if watch is not None:
                return watch
        raise NotFoundError(f"there is no run {run_id} in {runs_dir}; see: magic ls")

    def forget(self, watch: RunWatch) -> None:
        """A run is gone."""
        with self._lock:
            if self._folders.get(watch.folder.path.parent, {}).pop(watch.folder.path, None):
                self.changed()
        watch.close()

    def recheck(self) -> None:
        """Look into every folder again, whatever its time of change says."""
        with self._lock:
            self._stamps.clear()

    def _scan(self, runs_dir: Path, again: bool = False) -> None:
        stamp = changed_at(runs_dir)
        known = self._folders.get(runs_dir)
        if known is not None and self._stamps.get(runs_dir) == stamp and not again:
            return
        old = known or {}
        found = [folder.path for folder in list_runs(runs_dir)]
        self._folders[runs_dir] = {p: old.get(p) or RunWatch(p, self.changed) for p in found}
        self._stamps[runs_dir] = stamp if is_sure([stamp]) else -1
        gone = [old[path] for path in old.keys() - set(found)]
        for watch in gone:
            watch.close()
        if gone or len(found) > len(old):
            self.changed()
