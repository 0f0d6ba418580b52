"""Write files and folders atomically: a reader sees the old content or the new."""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from engine.runs.errors import DiskFullError, RunError, UsageError


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``: temporary file, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "xb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A staging folder that is renamed to ``path`` if the block succeeds.

    Raises:
        UsageError: if ``path`` is not empty.
        DiskFullError: if the disk is full.
        RunError: if it cannot be written for another reason.
    """
    refuse_used(path)
    # Remove what a killed process left.
    staging = path.with_name(f".{path.name}.new")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        sync_tree(staging)
        os.rename(staging, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"disk full while writing {path}, so nothing was written; free some disk, or name "
                "another folder"
            ) from None
        where = error.filename or path
        raise RunError(
            f"{where} cannot be written: {error.strerror or error}; name another folder"
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def refuse_used(path: Path) -> None:
    """Refuse an output folder that is not empty.

    Raises:
        UsageError: if it is not empty.
    """
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{path} is already there and not an empty folder; name another one")


def sync_folder(path: Path) -> None:
    """Make renames and new files in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Make every file and folder below ``path`` durable."""
    for folder, _, files in os.walk(path):
        for name in files:
            descriptor = os.open(os.path.join(folder, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(folder))


def size_on_disk(path: Path) -> int:
    """Bytes of all files below ``path``, or of the file itself; 0 if it does not exist."""
    if path.is_file():
        return path.stat().st_size
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
