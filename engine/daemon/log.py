"""The engine's log: one line for what was to be expected, and a file that stays short.

A traceback is written for errors that nobody foresaw, and for no others: clients that break off,
requests that the end of the engine cuts off, files that cannot be read and full disks each have
a sentence.
"""

import asyncio
import contextlib
import logging
import os
import stat
import sys
from pathlib import Path

from engine.runs.errors import MagicError

LARGEST_BYTES = 4_000_000
"""A longer log is put aside as ``….1``, in place of the one that was put aside before it."""
_CUT_OFF = (asyncio.CancelledError, ConnectionError)
_FORESEEN = (MagicError, OSError)


def set_up_log(file: Path | None) -> None:
    """Log to stderr; if that goes to ``file``, keep it short."""
    handler = _Handler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(without_foreseen_tracebacks)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # What uvicorn tells at this level, the server tells itself.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.ERROR)


def without_foreseen_tracebacks(record: logging.LogRecord) -> bool:
    """A filter: give errors that are no surprise a sentence in place of their traceback."""
    if record.name == "uvicorn.error" and str(record.msg).startswith("Cancel "):
        # Each of them is told of by itself.
        return False
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return True
    # By name, because the engine opens its socket before it loads what that comes from.
    if isinstance(error, _CUT_OFF) or type(error).__name__ == "ClientDisconnect":
        record.msg, record.args = "a request was cut off: %s", (_named(error),)
        record.levelno, record.levelname = logging.INFO, "INFO"
    elif isinstance(error, _FORESEEN):
        record.msg, record.args = f"{record.getMessage().rstrip()}: %s", (_named(error),)
    else:
        return True
    record.exc_info = record.exc_text = None
    return True


def _named(error: BaseException) -> str:
    text = str(error)
    return text if isinstance(error, MagicError) else f"{type(error).__name__} {text}".strip()


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    def __init__(self, file: Path | None) -> None:
        super().__init__(sys.stderr)
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, into a new file if the one before it has become too long."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                shorten(self._file)
        super().emit(record)


def shorten(file: Path) -> None:
    """If stderr is a file that has become too long, put it aside and go on with a new one.

    Raises:
        OSError: if that cannot be done.
    """
    entry = os.fstat(2)
    if not stat.S_ISREG(entry.st_mode) or entry.st_size < LARGEST_BYTES:
        return
    os.replace(file, file.with_name(f"{file.name}.1"))
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)
