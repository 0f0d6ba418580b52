"""Temporary folders that are removed even if their process is killed.

The process that creates a folder holds its lock. Creating the next folder removes those whose lock
is free, for example after a SIGKILL.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from engine.runs.paths import make_private

_GRACE_SECONDS = 10.0
"""An upper bound on the time between the creation of a folder and its lock."""


@contextlib.contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A new folder that only its user may enter and that is removed at the end.

    Raises:
        UnreachableError: if there is no private place for it.
    """
    base = Path(tempfile.gettempdir()) / f"magic-scratch-{os.geteuid()}"
    make_private(base, "TMPDIR")
    _sweep(base)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=base))
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _sweep(base: Path) -> None:
    for folder in base.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime < _GRACE_SECONDS:
                continue
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
