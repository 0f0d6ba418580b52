"""Work on folders that may never answer, such as those of a mount that hangs.

A thread that reads from such a mount cannot be interrupted, only left behind. So whoever looks at a
folder does it in a thread with a time limit. What exceeds it is set aside: nobody waits for it
again until the thread that was left behind comes back. Where two runs of a folder are set aside,
all of that folder are.
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
"""How long a look at a folder of runs may take, and the scheduler's look at one run."""
_MOST_HANGING = 2
T = TypeVar("T")
log = logging.getLogger(__name__)


class HungError(RunError):
    """A folder does not answer."""

    def __init__(self, path: Path) -> None:
        """Name the folder and the remedy."""
        super().__init__(
            f"{path} does not answer: its disk hangs or is very slow; it is looked at again once "
            "it answers, so check the mount"
        )


class Patience:
    """Knows which folders do not answer; safe to use from several threads."""

    def __init__(self) -> None:
        """All answer."""
        self.changed = threading.Condition()
        self.hanging: Counter[Path] = Counter()
        """By path, how many threads are left behind with it."""

    def is_hanging(self, path: Path) -> bool:
        """Whether a path, or the folder that it is in, is set aside."""
        with self.changed:
            beside = sum(count > 0 for p, count in self.hanging.items() if p.parent == path.parent)
            return self.hanging[path] > 0 or beside >= _MOST_HANGING

    def do(self, path: Path, action: Callable[[], T], seconds: float | None = None) -> T:
        """Do something that reads or writes in a folder; one that is set aside may come back.

        Raises:
            HungError: if it takes too long; it may still come to its end.
        """
        # Of its own: a question that hangs sets nothing aside for the scheduler.
        key = path / ".asked"
        with self.changed:
            self.changed.wait_for(lambda: not self.is_hanging(key), RUN_SECONDS)
        done: list[T] = []
        failed: list[BaseException] = []

        def work(_: Path) -> None:
            try:
                done.append(action())
            except BaseException as error:
                failed.append(error)

        self.each([key], work, FOLDER_SECONDS if seconds is None else seconds)
        if failed:
            raise failed[0]
        if not done:
            raise HungError(path)
        return done[0]

    def each(
        self, paths: Iterable[Path], action: Callable[[Path], None], seconds: float | None = None
    ) -> None:
        """Do something for each path, in one thread unless one of them hangs.

        Paths that are set aside are passed over. ``action`` has nobody to raise an error to.
        """
        left = deque(paths)
        while left:
            look = _Look(self, left, action)
            look.start()
            if look.is_done(RUN_SECONDS if seconds is None else seconds):
                return


class _Look(threading.Thread):
    """Works through paths until there are no more, or until it is left behind with one."""

    def __init__(
        self, patience: Patience, left: deque[Path], action: Callable[[Path], None]
    ) -> None:
        super().__init__(name="look", daemon=True)
        self._patience, self._left, self._action = patience, left, action
        self._at: Path | None = None
        self._since = time.monotonic()
        self._done = self._left_behind = False

    def run(self) -> None:
        while (path := self._next()) is not None:
            try:
                self._action(path)
            except Exception:
                log.exception("a look at %s failed; the next one goes on", path)

    def is_done(self, seconds: float) -> bool:
        """Wait for its end; False if it is left behind with a path that took too long."""
        changed = self._patience.changed
        with changed:
            while not self._done:
                remaining = self._since + seconds - time.monotonic()
                if remaining > 0:
                    changed.wait(remaining)
                elif self._at is not None:
                    self._left_behind = True
                    self._patience.hanging[self._at] += 1
                    return False
                else:
                    # Not even begun: the machine is busy.
                    changed.wait(seconds)
        return True

    def _next(self) -> Path | None:
        with self._patience.changed:
            if self._left_behind and self._at is not None:
                self._patience.hanging[self._at] -= 1
                self._patience.changed.notify_all()
                return None
            self._at, self._since = None, time.monotonic()
            while self._left and self._at is None:
                path = self._left.popleft()
                self._at = None if self._patience.is_hanging(path) else path
            if self._at is None:
                self._done = True
                self._patience.changed.notify_all()
            return self._at
