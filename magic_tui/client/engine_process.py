"""The engine's process: connect to it, start it if there is none, and stop it.

If several clients start at once, the one that takes ``start.lock`` and finds no engine spawns it.
The engine itself guarantees that there is only one; this lock only avoids needless attempts.
"""

import contextlib
import fcntl
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from engine.runs import paths
from engine.runs.errors import UnreachableError
from engine.runs.run_folder import try_lock
from engine.runs.states import View
from magic_tui.client.http import DisconnectedError, NoResponseError, Request, Response, send

if TYPE_CHECKING:
    import subprocess

# -P: a file in the user's folder that is named like a library must not be imported in its place.
PYTHON = (sys.executable, "-P", "-m")
ENGINE_COMMAND = [*PYTHON, "engine.daemon"]
START_SECONDS = 20.0
BUSY = 503
"""The HTTP status of an engine that has too many connections."""
_RESPONSE_SECONDS = 8.0
_POLL_SECONDS, _BUSY_POLL_SECONDS = 0.05, 0.25
_STOP_SECONDS, _STOP_POLL_SECONDS = 30.0, 0.1
_LOG_LINES = 8

Connected = tuple[Path, View]
"""The socket of an engine, and its view of itself."""


class StartError(UnreachableError):
    """The engine did not start; carries the end of its log."""

    def __init__(self, message: str) -> None:
        """Describe the failure and name the log."""
        log = engine_log()
        super().__init__(f"{message}; its log is {log}")
        self.last_lines = last_lines(log, _LOG_LINES)


def reach() -> Connected | None:
    """The engine that runs; None if there is none.

    Raises:
        UnreachableError: if there is one, but it does not respond or is too busy.
    """
    deadline = time.monotonic() + _response_seconds()
    for path in _sockets():
        response = _engine_view(path, deadline)
        view = None if response is None else response.json()
        if response is not None and response.status == 200 and isinstance(view, dict):
            return path, view
        if response is not None and response.status == BUSY:
            message = view["message"] if isinstance(view, dict) else "it is busy"
            raise UnreachableError(f"the engine is running but too busy: {message}")
    return None


def reach_or_start() -> tuple[Connected, bool]:
    """The engine, started if there is none; and whether it was started.

    Raises:
        UnreachableError: if none responds within 20 s.
    """
    connected = reach()
    if connected is not None:
        return connected, False
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with _start_lock() as locked:
            connected = reach()
            if connected is not None:
                return connected, False
            if locked:
                return _start(deadline), True
        time.sleep(_POLL_SECONDS)
    raise StartError(f"no engine responds within {START_SECONDS:.0f} s")


def stop_engine(socket_path: Path, pid: int) -> None:
    """Stop the engine at a socket, and wait for its process to exit.

    Its lock is no evidence of that, because another engine may take the lock at once.

    Raises:
        UnreachableError: if it does not exit.
    """
    process = _process_descriptor(pid)
    try:
        stopped_note().touch()
        deadline = time.monotonic() + _STOP_SECONDS
        requested = False
        while not (requested := requested or _request_stop(socket_path)) or not _has_exited(
            process, pid
        ):
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"the engine, process {pid}, has not exited within {_STOP_SECONDS:.0f} s; "
                    f"end it with: kill {pid}"
                )
    finally:
        if process is not None:
            os.close(process)


def spawn_engine(log: Path) -> "subprocess.Popen[bytes]":
    """Start an engine that is detached from this terminal; its output goes to ``log``."""
    import subprocess

    from engine.runs.environment import child_environment

    with open(log, "ab") as output:
        process = subprocess.Popen(
            [*ENGINE_COMMAND, "--log", str(log)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,
            env=child_environment(os.environ),
        )
    # Waited for, so that it does not stay a zombie while this process lives.
    threading.Thread(target=process.wait, daemon=True).start()
    return process


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log file; none if it cannot be read."""
    with contextlib.suppress(OSError):
        return log.read_text(errors="replace").strip().splitlines()[-count:]
    return []


def stopped_note() -> Path:
    """A file that exists while the engine is stopped on purpose, so that none is restarted."""
    return paths.state_folder() / "stopped"


def engine_log() -> Path:
    """The log of an engine that a client started."""
    return paths.state_folder() / "engine.log"


def engine_pid() -> str | None:
    """The process that holds the engine's lock, whether it responds or not; None if none does."""
    try:
        descriptor = os.open(paths.state_folder() / "engine.lock", os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if try_lock(descriptor, fcntl.LOCK_SH):
            return None
        return os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
    finally:
        os.close(descriptor)


def _engine_view(path: Path, deadline: float) -> Response | None:
    """The response of the engine at a socket; None if there is no engine."""
    while True:
        try:
            left = max(_POLL_SECONDS, deadline - time.monotonic())
            response = send(path, Request("GET", "/v1/engine", timeout=left))
            if response.status != BUSY or time.monotonic() >= deadline:
                return response
        except NoResponseError:
            if time.monotonic() >= deadline:
                pid = engine_pid()
                if pid is None:
                    return None
                raise UnreachableError(
                    f"the engine, process {pid}, does not respond; if it is suspended, continue "
                    f"it with: kill -CONT {pid}; else end it, which runs survive, with: "
                    f"kill -KILL {pid}"
                ) from None
        except DisconnectedError:
            return None
        time.sleep(_BUSY_POLL_SECONDS)


def _response_seconds() -> float:
    """Seconds to wait for a response; more if the engine was started just now."""
    try:
        age = time.time() - (paths.state_folder() / "engine.lock").stat().st_mtime
    except FileNotFoundError:
        return _RESPONSE_SECONDS
    return min(max(_RESPONSE_SECONDS, START_SECONDS - age), START_SECONDS)


def _start(deadline: float) -> Connected:
    """Spawn the engine and wait until it, or another one, responds."""
    stopped_note().unlink(missing_ok=True)
    process = spawn_engine(engine_log())
    while time.monotonic() < deadline:
        # Tested before reach(): an engine that exits may leave the socket to another one.
        exited = process.poll() is not None and engine_pid() is None
        connected = reach()
        if connected is not None:
            return connected
        if exited:
            raise StartError(f"the engine exited at once (exit {process.returncode})")
        time.sleep(_POLL_SECONDS)
    raise StartError(f"the engine did not respond within {START_SECONDS:.0f} s")


@contextlib.contextmanager
def _start_lock() -> Iterator[bool]:
    """Try to take ``start.lock``; yields whether this process holds it."""
    descriptor = os.open(paths.state_folder() / "start.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield try_lock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def _sockets() -> Iterator[Path]:
    """Where an engine may listen: the path that it stored, then the path of this environment."""
    stored = paths.noted_socket(paths.state_folder())
    if stored is not None:
        yield stored
    own = paths.socket_path()
    if own != stored:
        yield own


def _request_stop(socket_path: Path) -> bool:
    """Request the stop; False if the engine is too busy to receive it."""
    try:
        response = send(socket_path, Request("POST", "/v1/engine/stop", timeout=_STOP_SECONDS))
    except DisconnectedError:
        return True
    if response.status == BUSY:
        time.sleep(_STOP_POLL_SECONDS)
    return response.status != BUSY


def _process_descriptor(pid: int) -> int | None:
    """A descriptor that names this process even if its id is reused; None if there is none."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        # It exited just now, it is in another container, or the system has no such descriptors.
        return None


def _has_exited(process: int | None, pid: int) -> bool:
    if process is not None:
        return bool(select.select([process], [], [], _STOP_POLL_SECONDS)[0])
    time.sleep(_STOP_POLL_SECONDS)
    return engine_pid() != str(pid)
