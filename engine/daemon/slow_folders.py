"""Access to folders that may never answer, such as those on a mount that hangs.

A thread that reads from such a mount cannot be interrupted, only abandoned. So every access runs in
a thread with a time limit. A path that exceeds the limit is skipped until its abandoned thread
returns. If two runs of a folder are skipped, all runs of that folder are.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from engine.runs.errors import RunError

FOLDER_SECONDS, RUN_SECONDS = 30.0, 5.0
"""Limits for a request about a folder of runs, and for the scheduler's visit to one run."""
_MOST_HUNG = 2
T = TypeVar("T")
log = logging.getLogger(__name__)


class HungError(RunError):
    """A folder does not answer."""

    def __init__(self, path: Path) -> None:
        """Name the folder and the remedy."""
        super().__init__(
            f"{path} does not answer: its disk hangs or is very slow; it is read again once it "
            "answers, so check the mount"
        )


class FolderTimeouts:
    """Runs work on folders with a time limit, and skips those that hang; thread-safe."""

    def __init__(self) -> None:
        """Assume that all folders answer."""
        self.changed = threading.Condition()
        self.hung: Counter[Path] = Counter()
        """The number of abandoned threads by path."""

    def is_hung(self, path: Path) -> bool:
        """Whether a path, or the folder that contains it, is skipped."""
        with self.changed:
            siblings = sum(count > 0 for p, count in self.hung.items() if p.parent == path.parent)
            return self.hung[path] > 0 or siblings >= _MOST_HUNG

    def call(self, path: Path, action: Callable[[], T], seconds: float | None = None) -> T:
        """The result of ``action``, which reads or writes in a folder.

        Raises:
            HungError: if it exceeds the limit; it may still complete later.
        """
        # A key of its own: a request that hangs must not stop the scheduler's visits.
        key = path / ".request"
        with self.changed:
            self.changed.wait_for(lambda: not self.is_hung(key), RUN_SECONDS)
        results: list[T] = []
        errors: list[BaseException] = []

        def work(_: Path) -> None:
            try:
                results.append(action())
            except BaseException as error:
                errors.append(error)

        self.for_each([key], work, FOLDER_SECONDS if seconds is None else seconds)
        if errors:
            raise errors[0]
        if not results:
            raise HungError(path)
        return results[0]

    def for_each(
        self, paths: Iterable[Path], action: Callable[[Path], None], seconds: float | None = None
    ) -> None:
        """Call ``action`` for each path, in one thread unless one of them hangs.

        Hung paths are skipped. Errors of ``action`` are logged.
        """
        left = deque(paths)
        while left:
            visitor = _Visitor(self, left, action)
            visitor.start()
            if visitor.is_done(RUN_SECONDS if seconds is None else seconds):
                return


class _Visitor(threading.Thread):
    """Works through paths until none is left, or until it is abandoned at one of them."""

    def __init__(
        self, timeouts: FolderTimeouts, left: deque[Path], action: Callable[[Path], None]
    ) -> None:
        super().__init__(name="visitor", daemon=True)
        self._timeouts, self._left, self._action = timeouts, left, action
        self._at: Path | None = None
        self._since = time.monotonic()
        self._done = self._abandoned = False

    def run(self) -> None:
        while (path := self._next()) is not None:
            try:
                self._action(path)
            except Exception:
                log.exception("visiting %s failed; the next one follows", path)

    def is_done(self, seconds: float) -> bool:
        """Wait for its end; False if it is abandoned at a path that exceeded the limit."""
        changed = self._timeouts.changed
        with changed:
            while not self._done:
                remaining = self._since + seconds - time.monotonic()
                if remaining > 0:
                    changed.wait(remaining)
                elif self._at is not None:
                    self._abandoned = True
                    self._timeouts.hung[self._at] += 1
                    return False
                else:
                    # The thread has not started yet: the machine is busy.
                    changed.wait(seconds)
        return True

    def _next(self) -> Path | None:
        with self._timeouts.changed:
            if self._abandoned and self._at is not None:
                self._timeouts.hung[self._at] -= 1
                self._timeouts.changed.notify_all()
                return None
            self._at, self._since = None, time.monotonic()
            while self._left and self._at is None:
                path = self._left.popleft()
                self._at = None if self._timeouts.is_hung(path) else path
            if self._at is None:
                self._done = True
                self._timeouts.changed.notify_all()
            return self._at
