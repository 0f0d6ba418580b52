"""The runs that the engine works on, and those of the folders that somebody looked at last."""

import re
import threading
from collections.abc import Callable
from pathlib import Path

from engine.contract.api import RUN_ID
from engine.contract.errors import NotFoundError
from engine.daemon.job_watch import JobWatch, changed_at, is_sure
from engine.daemon.views import RunWatch
from engine.records.runs import list_runs

_MOST_LOOKED_AT = 16
"""Folders; what is kept of any other is dropped, and read again when it is looked at."""


class Library:
    """Keeps one :class:`RunWatch` a run; safe to use from several threads.

    What is kept of a folder only spares reading it again: looking at one starts nothing there.
    """

    def __init__(self, not_asked: Callable[[JobWatch], str | None] = lambda job: None) -> None:
        """Know no folder yet; ``not_asked`` says why the engine does not start a job."""
        self._not_asked = not_asked
        self._lock = threading.RLock()
        # Apart from the other: whoever counts a change may hold the lock of a run.
        self._counting = threading.Lock()
        self._folders: dict[Path, dict[Path, RunWatch]] = {}
        self._stamps: dict[Path, int] = {}
        self._changes = 0
        self._followed: set[Path] = set()
        """Folders of runs that the engine works on: their watches are never dropped."""

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
        """The runs of all folders that are kept."""
        with self._lock:
            return [watch for folder in self._folders.values() for watch in folder.values()]

    def watch(self, run: Path) -> RunWatch:
        """The watch of the run in a folder, whether anything is there or not."""
        with self._lock:
            self._followed.add(run.parent)
            folder = self._folders.setdefault(run.parent, {})
            if run not in folder:
                folder[run] = self._watched(run)
            return folder[run]

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

    def _watched(self, run: Path) -> RunWatch:
        return RunWatch(run, self.changed, self._not_asked)

    def _drop_old(self) -> None:
        """Drop what is kept of the folders that were looked at first, beyond a few."""
        looked = [folder for folder in self._folders if folder not in self._followed]
        for folder in looked[:-_MOST_LOOKED_AT]:
            for watch in self._folders.pop(folder).values():
                watch.close()
            self._stamps.pop(folder, None)

    def _scan(self, runs_dir: Path, again: bool = False) -> None:
        stamp = changed_at(runs_dir)
        known = self._folders.get(runs_dir)
        if known is not None and self._stamps.get(runs_dir) == stamp and not again:
            return
        old = known or {}
        self._drop_old()
        found = [folder.path for folder in list_runs(runs_dir)]
        self._folders[runs_dir] = {p: old.get(p) or self._watched(p) for p in found}
        self._stamps[runs_dir] = stamp if is_sure([stamp]) else -1
        gone = [old[path] for path in old.keys() - set(found)]
        for watch in gone:
            watch.close()
        if gone or len(found) > len(old):
            self.changed()
