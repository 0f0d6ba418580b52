"""The logs of a run as one text: each attempt's file behind the one before it."""

import logging
import os
import stat
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from engine.daemon.serving import Serving
from engine.daemon.streams import PIECE, TICK_SECONDS, Parts, is_settled
from engine.runs.listing import run_of_id

_log = logging.getLogger(__name__)


class LogCursor:
    """A place in the log files of a folder: by their names, but a late one is not left out."""

    def __init__(self, folder: Path) -> None:
        """Begin with the first file of ``folder``, which need not be there yet."""
        self._folder = folder
        self._read: set[str] = set()
        self._file: int | None = None

    def read(self) -> bytes:
        """The next bytes; none if there are no more for now."""
        while True:
            if self._file is not None and (piece := os.read(self._file, PIECE)):
                return piece
            if not self._open_next():
                return b""

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open_next(self) -> bool:
        try:
            names = sorted(set(os.listdir(self._folder)) - self._read)
        except FileNotFoundError:
            return False
        for name in names:
            # Opening a pipe would wait for whoever writes to it.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            try:
                file = os.open(self._folder / name, flags)
            except OSError:
                continue
            if stat.S_ISREG(os.fstat(file).st_mode):
                self.close()
                self._read.add(name)
                self._file = file
                return True
            os.close(file)
        return False


async def log_text(serving: Serving, runs_dir: Path, run_id: str, follow: bool) -> Parts:
    """The logs of a run that is there; with ``follow`` until every job is settled."""
    cursor = LogCursor(run_of_id(runs_dir, run_id).logs)
    try:
        while not serving.ending.is_set():
            # Asked before the files are read to their end, so that the end is in the text.
            settled = not follow or is_settled(
                await run_in_threadpool(serving.engine.run, runs_dir, run_id)
            )
            while piece := await run_in_threadpool(cursor.read):
                yield piece
            if settled:
                return
            await serving.pause(2 * TICK_SECONDS)
    except Exception:
        # Half an answer cannot become another one: the text ends here.
        _log.exception("the logs of run %s cannot be read on", run_id)
    finally:
        cursor.close()
