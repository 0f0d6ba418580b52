"""The lock that allows one engine per user and machine, and the engine's socket."""

import contextlib
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from engine.runs.errors import RunError, UnreachableError
from engine.runs.paths import note_socket, socket_path

_LOCK_SECONDS = 1.0


@contextlib.contextmanager
def sole_engine(state: Path) -> Iterator[None]:
    """Hold the lock that allows one engine per state folder.

    Raises:
        RunError: if another engine holds it.
        UnreachableError: if the folder cannot hold a lock.
    """
    try:
        lock = os.open(state / "engine.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UnreachableError(f"cannot open {error.filename}: {error.strerror}") from None
    try:
        _lock(lock, state)
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(lock)


class Listener:
    """A socket at a path, which can be bound again if the path is lost."""

    def __init__(self, state: Path) -> None:
        """Write the socket's path to the folder ``state``."""
        self._state = state
        self._bound: tuple[int, int] | None = None
        self.path: Path | None = None

    def open(self) -> socket.socket:
        """Bind and listen; replaces the socket of an engine that died.

        Raises:
            UnreachableError: if something else is at its path, or nothing can be bound there.
        """
        path = socket_path()
        try:
            _clear(path)
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                # bind() gives the path this mode, so others can never connect.
                os.fchmod(listening.fileno(), 0o600)
                listening.bind(str(path))
                listening.listen(128)
                entry = path.lstat()
                note_socket(self._state, path)
            except BaseException:
                listening.close()
                raise
        except OSError as error:
            raise UnreachableError(
                f"cannot listen at {path}: {error.strerror}; set MAGIC_RUNTIME_DIR to a folder "
                "of your own on a local disk"
            ) from None
        self.path, self._bound = path, (entry.st_dev, entry.st_ino)
        return listening

    def is_lost(self) -> bool:
        """Whether the path is missing or is another socket, so that no client can connect."""
        return self._at_path() != self._bound

    def close(self) -> None:
        """Remove the socket, if it is still this one, and its path in the state folder."""
        if self.path is not None and not self.is_lost():
            with contextlib.suppress(OSError):
                self.path.unlink()
                (self._state / "socket").unlink()

    def _at_path(self) -> tuple[int, int] | None:
        assert self.path is not None
        try:
            entry = self.path.lstat()
        except OSError:
            return None
        return entry.st_dev, entry.st_ino


def _lock(lock: int, state: Path) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            # A client that tests the lock holds it for a moment, too.
            if time.monotonic() >= deadline:
                pid = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
                raise RunError(
                    f"your engine runs already (process {pid}); stop it first with: "
                    "magic engine stop"
                ) from None
        except OSError as error:
            raise UnreachableError(
                f"{state} is on a disk that cannot lock files ({error.strerror}); set "
                "MAGIC_STATE_DIR to a folder of your own on a local disk"
            ) from None
        time.sleep(0.02)


def _clear(path: Path) -> None:
    """Remove the socket of an engine that died, and nothing else."""
    try:
        entry = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(entry.st_mode) or entry.st_uid != os.geteuid():
        raise UnreachableError(
            f"{path} exists and is not a socket of yours; remove it, or set MAGIC_RUNTIME_DIR to "
            "a folder of your own"
        )
    if _answers(path):
        raise UnreachableError(
            f"an engine with another state folder listens at {path}; stop that one, or set "
            "MAGIC_RUNTIME_DIR to another folder"
        )
    path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True
