"""The engine's log: one line for an expected error, and a file of limited size.

Only unexpected errors get a traceback. Clients that disconnect, requests cut off by a shutdown,
unreadable files and full disks get one line each.
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
"""A longer log is renamed to ``….1``, replacing the previous one."""
_CUT_OFF = (asyncio.CancelledError, ConnectionError)
_EXPECTED = (MagicError, OSError)


def set_up_log(file: Path | None) -> None:
    """Log to stderr; if that goes to ``file``, limit the file's size."""
    handler = _Handler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(drop_expected_tracebacks)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # The server logs these events itself.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.ERROR)


def drop_expected_tracebacks(record: logging.LogRecord) -> bool:
    """Logging filter: replace the traceback of an expected error by one line."""
    if record.name == "uvicorn.error" and str(record.msg).startswith("Cancel "):
        # Each cancelled request is logged separately.
        return False
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return True
    # By name: importing its library here would delay the opening of the socket.
    if isinstance(error, _CUT_OFF) or type(error).__name__ == "ClientDisconnect":
        record.msg, record.args = "a request was cut off: %s", (_named(error),)
        record.levelno, record.levelname = logging.INFO, "INFO"
    elif isinstance(error, _EXPECTED):
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
        """Write a record, after starting a new file if the present one is too long."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                rotate(self._file)
        super().emit(record)


def rotate(file: Path) -> None:
    """If stderr is a file that is too long, rename it and continue in a new one.

    Raises:
        OSError: if that fails.
    """
    entry = os.fstat(2)
    if not stat.S_ISREG(entry.st_mode) or entry.st_size < LARGEST_BYTES:
        return
    os.replace(file, file.with_name(f"{file.name}.1"))
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)
