"""One engine a user and machine, and the socket it listens at."""

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

_PATIENCE_SECONDS = 1.0


@contextlib.contextmanager
def sole_engine(state: Path) -> Iterator[None]:
    """Be the only engine of a state folder, for as long as this process lives.

    Raises:
        RunError: if there is one already.
        UnreachableError: if that cannot be found out.
    """
    try:
        lock = os.open(state / "engine.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UnreachableError(f"cannot open {error.filename}: {error.strerror}") from None
    try:
        _take(lock, state)
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(lock)


class Listener:
    """A socket with a name in the file system, which is made anew where that was lost."""

    def __init__(self, state: Path) -> None:
        """Note in ``state`` where the socket is."""
        self._state = state
        self._bound: tuple[int, int] | None = None
        self.path: Path | None = None

    def open(self) -> socket.socket:
        """Bind and listen; a socket that a dead engine left there is replaced.

        Raises:
            UnreachableError: if something else is there, or there is no place for it.
        """
        path = socket_path()
        try:
            _clear(path)
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                # The name gets the mode of the socket: there is no moment at which others may.
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
        """Whether the name is gone or names another socket: nobody could connect any more."""
        return self._named() != self._bound

    def close(self) -> None:
        """Remove the name, if it is still this socket's, and what was noted of it."""
        if self.path is not None and not self.is_lost():
            with contextlib.suppress(OSError):
                self.path.unlink()
                (self._state / "socket").unlink()

    def _named(self) -> tuple[int, int] | None:
        assert self.path is not None
        try:
            entry = self.path.lstat()
        except OSError:
            return None
        return entry.st_dev, entry.st_ino


def _take(lock: int, state: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            # Whoever asks whether there is an engine has the lock for a moment, too.
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
    """Remove the socket of an engine that is no more, and nothing else."""
    try:
        entry = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(entry.st_mode) or entry.st_uid != os.geteuid():
        raise UnreachableError(
            f"{path} is there and is not a socket of yours; remove it, or set MAGIC_RUNTIME_DIR to "
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
