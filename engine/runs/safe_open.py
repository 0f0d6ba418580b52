"""Open the files of a run: regular files only, and without blocking.

A run folder may come from another person. Opening a named pipe blocks until it has a writer, and
opening a device can have side effects. So all files of a run are opened with this module, for
reading and for appending. A supervisor loads it at start, so it imports little.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from engine.runs.errors import RunError

MOST_BYTES = 1 << 26
"""The largest file that is read as a whole; records are far shorter."""


def regular(path: str | os.PathLike[str], flags: int) -> int:
    """An opener for :func:`open` that opens regular files only and does not block.

    Raises:
        FileNotFoundError: if nothing is there and the flags do not create it.
        RunError: if it is not a regular file.
    """
    with contextlib.suppress(FileNotFoundError):
        # Checked before opening, because opening a device can have side effects.
        _check(path, os.stat(path))
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EISDIR):
            raise _refusal(path) from None
        raise
    try:
        _check(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; the caller closes it.

    Raises:
        FileNotFoundError: if nothing is there.
        RunError: if it is not a regular file.
    """
    return open(path, "rb", opener=regular)


def read_file(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a short file.

    Raises:
        FileNotFoundError: if nothing is there.
        RunError: if it is not a regular file, or is too long.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise RunError(
            f"{path} is longer than {most} bytes, so this magic did not write it; restore it from "
            "a backup, or remove the run"
        )
    return content


def check_regular(path: Path) -> Path:
    """Refuse anything but a regular file, before a library opens the path.

    Raises:
        RunError: if it is not a regular file.
    """
    with contextlib.suppress(FileNotFoundError):
        _check(path, os.stat(path))
    return path


def _check(path: str | os.PathLike[str], entry: os.stat_result) -> None:
    if not stat.S_ISREG(entry.st_mode):
        raise _refusal(path)


def _refusal(path: str | os.PathLike[str]) -> RunError:
    return RunError(
        f"{os.fspath(path)} is not a regular file; restore it from a backup, or remove the run"
    )
