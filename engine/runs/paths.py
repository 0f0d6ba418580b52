"""The folders of runs, of the engine's state and of its socket.

The state folder belongs to one user on one machine, because several machines may share a home
folder. The socket is in a runtime folder, because a network filesystem cannot hold one. Both must
be private: a process that reaches the socket can start programs with the user's rights.
"""

import contextlib
import os
import stat
from pathlib import Path

from engine.runs.atomic import write_atomically
from engine.runs.errors import UnreachableError

LONGEST_SOCKET_PATH = 107
"""Bytes; the system binds no longer path."""
_SOCKET_NAME = "engine.sock"


def runs_folder(path: Path | None = None) -> Path:
    """The folder of the runs: ``path``, ``$MAGIC_RUNS``, or one in the XDG data folder."""
    if path is not None:
        return path.expanduser()
    if os.environ.get("MAGIC_RUNS"):
        return Path(os.environ["MAGIC_RUNS"]).expanduser()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "magic" / "runs"


def state_folder() -> Path:
    """The state folder: ``$MAGIC_STATE_DIR``, or the XDG state folder; created if missing.

    Raises:
        UnreachableError: if it cannot be created, or others may enter it.
    """
    named = _absolute("MAGIC_STATE_DIR")
    if named is None:
        state = Path(os.environ.get("XDG_STATE_HOME") or "")
        if not state.is_absolute():
            state = _home() / ".local" / "state"
        named = state / "magic" / (os.uname().nodename or "localhost")
    make_private(named, "MAGIC_STATE_DIR")
    return named


def socket_path() -> Path:
    """The path of the socket of an engine that starts now; its folder is created if missing.

    Raises:
        UnreachableError: if there is no private folder for it.
    """
    named = _absolute("MAGIC_RUNTIME_DIR")
    if named is not None:
        path = named / _SOCKET_NAME
        if not _fits(path):
            raise UnreachableError(
                f"{path} is longer than the {LONGEST_SOCKET_PATH} bytes that a socket's path may "
                "have; set MAGIC_RUNTIME_DIR to a shorter one"
            )
        make_private(named, "MAGIC_RUNTIME_DIR")
        return path
    session = _session_folder()
    if session is not None and _fits(session / _SOCKET_NAME):
        make_private(session, "MAGIC_RUNTIME_DIR")
        return session / _SOCKET_NAME
    fallback = Path(f"/tmp/magic-{os.geteuid()}")
    make_private(fallback, "MAGIC_RUNTIME_DIR")
    return fallback / _SOCKET_NAME


def note_socket(state: Path, socket: Path) -> None:
    """Store the path of the socket that is served now."""
    write_atomically(state / "socket", os.fsencode(socket) + b"\n")


def noted_socket(state: Path) -> Path | None:
    """The stored path of the engine's socket; None if there is none.

    Raises:
        UnreachableError: if others could have replaced the socket.
    """
    try:
        path = Path(os.fsdecode((state / "socket").read_bytes()).strip())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnreachableError(f"cannot read {state / 'socket'}: {error.strerror}") from None
    if not path.is_absolute() or not _fits(path):
        return None
    try:
        check_private(path.parent, "MAGIC_RUNTIME_DIR")
        entry = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISSOCK(entry.st_mode) or entry.st_uid != os.geteuid():
        raise UnreachableError(f"{path} is not a socket of yours; remove it, then start the engine")
    return path


def make_private(folder: Path, variable: str) -> None:
    """Create a folder that only its owner may enter; ``variable`` can set another path.

    Raises:
        UnreachableError: if it cannot be created, or exists and others may enter it.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        check_private(folder, variable)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UnreachableError(
            f"cannot create the folder {folder}: {reason}; set {variable} to a folder of your own"
        ) from None


def check_private(folder: Path, variable: str) -> None:
    """Refuse a folder that others own or may enter; a link is not followed.

    Raises:
        FileNotFoundError: if it does not exist.
        UnreachableError: naming the folder and the remedy.
    """
    entry = folder.lstat()
    if not stat.S_ISDIR(entry.st_mode):
        raise UnreachableError(
            f"{folder} is not a folder; remove it, or set {variable} to a folder of your own"
        )
    if entry.st_uid != os.geteuid():
        raise UnreachableError(
            f"{folder} belongs to user {entry.st_uid}, not to you; set {variable} to a folder of "
            "your own"
        )
    if entry.st_mode & 0o077:
        raise UnreachableError(
            f"{folder} has mode {stat.S_IMODE(entry.st_mode):04o}, so others may enter it; "
            f"run: chmod 700 {folder}"
        )


def _session_folder() -> Path | None:
    """The folder in ``$XDG_RUNTIME_DIR``, which exists only while its owner is logged in."""
    session = Path(os.environ.get("XDG_RUNTIME_DIR") or "")
    if not session.is_absolute():
        return None
    with contextlib.suppress(OSError, ValueError):
        # After su and sudo the variable may still name the folder of another user.
        if session.stat().st_uid == os.geteuid() and os.access(session, os.W_OK | os.X_OK):
            return session / "magic"
    return None


def _absolute(variable: str) -> Path | None:
    value = os.environ.get(variable)
    if not value:
        return None
    if not os.path.isabs(value):
        raise UnreachableError(
            f"{variable} is {value!r}, which is a relative path; set it to an absolute path"
        )
    return Path(value)


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise UnreachableError(
            "your home folder is unknown; set HOME, or MAGIC_STATE_DIR to a folder of your own"
        ) from None


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= LONGEST_SOCKET_PATH
