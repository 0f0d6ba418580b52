"""Reaching the engine, and starting one where none answers.

Of clients that start at once one spawns it: whoever takes ``start.lock`` and still finds nobody.
The engine itself makes sure that there is only one; this lock only spares the others the attempt.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from engine.runs import paths
from engine.runs.errors import UnreachableError
from engine.runs.states import View
from magic_tui.client.http import Answer, BrokenOffError, Question, SilentError, ask

START_SECONDS = 20.0
BUSY = 503
"""The status of an answer that says no more than that the engine is busy."""
_ANSWER_SECONDS = 8.0
_POLL_SECONDS, _BUSY_POLL_SECONDS = 0.05, 0.25
_LOG_LINES = 8

Reached = tuple[Path, View]
"""The socket at which an engine answers, and what it says of itself."""


class StartError(UnreachableError):
    """The engine did not start; carries the end of its log."""

    def __init__(self, message: str) -> None:
        """Say what happened and where its log is."""
        from magic_tui.client.processes import last_lines

        log = engine_log()
        super().__init__(f"{message}; its log is {log}")
        self.last_lines = last_lines(log, _LOG_LINES)


def reach() -> Reached | None:
    """The engine that runs; None if there is none.

    Raises:
        UnreachableError: if there is one, but it does not answer or is too busy to.
    """
    deadline = time.monotonic() + _patience()
    for path in _sockets():
        answer = _asked(path, deadline)
        view = None if answer is None else answer.json()
        if answer is not None and answer.status == 200 and isinstance(view, dict):
            return path, view
        if answer is not None and answer.status == BUSY:
            said = view["message"] if isinstance(view, dict) else "it is busy"
            raise UnreachableError(f"the engine is there but takes no questions: {said}")
    return None


def reach_or_start() -> tuple[Reached, bool]:
    """The engine, started if none answers; and whether that was needed.

    Raises:
        UnreachableError: if none answers within 20 s.
    """
    reached = reach()
    if reached is not None:
        return reached, False
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with _start_lock() as locked:
            reached = reach()
            if reached is not None:
                return reached, False
            if locked:
                return _start(deadline), True
        time.sleep(_POLL_SECONDS)
    raise StartError(f"no engine answers within {START_SECONDS:.0f} s")


def _asked(path: Path, deadline: float) -> Answer | None:
    """What is answered at a socket by then; None if nobody is there."""
    while True:
        try:
            left = max(_POLL_SECONDS, deadline - time.monotonic())
            answer = ask(path, Question("GET", "/v1/engine", {}, timeout=left))
            if answer.status != BUSY or time.monotonic() >= deadline:
                return answer
        except SilentError:
            if time.monotonic() >= deadline:
                pid = engine_pid()
                if pid is None:
                    return None
                raise UnreachableError(
                    f"the engine, process {pid}, is there but does not answer; if it was halted, "
                    f"let it go on with: kill -CONT {pid}; else end it, which runs survive, with: "
                    f"kill -KILL {pid}"
                ) from None
        except BrokenOffError:
            return None
        time.sleep(_BUSY_POLL_SECONDS)


def _patience() -> float:
    """Seconds to wait for an answer: an engine that was started just now is still loading."""
    try:
        age = time.time() - (paths.state_folder() / "engine.lock").stat().st_mtime
    except FileNotFoundError:
        return _ANSWER_SECONDS
    return min(max(_ANSWER_SECONDS, START_SECONDS - age), START_SECONDS)


def stopped_note() -> Path:
    """There while the engine is stopped on purpose: who only watches does not start it again."""
    return paths.state_folder() / "stopped"


def engine_log() -> Path:
    """Where an engine that was started from here writes what it has to say."""
    return paths.state_folder() / "engine.log"


def engine_pid() -> str | None:
    """The process that holds the engine's lock, answering or not; None if none does."""
    try:
        descriptor = os.open(paths.state_folder() / "engine.lock", os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if _try_lock(descriptor, fcntl.LOCK_SH):
            return None
        return os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
    finally:
        os.close(descriptor)


def _start(deadline: float) -> Reached:
    """Spawn the engine and wait until one answers, be it this one or another."""
    stopped_note().unlink(missing_ok=True)
    from magic_tui.client.processes import spawn_engine

    process = spawn_engine(engine_log())
    while time.monotonic() < deadline:
        # Asked first: an engine that ends in between may have left the socket to another one.
        ended = process.poll() is not None and engine_pid() is None
        reached = reach()
        if reached is not None:
            return reached
        if ended:
            raise StartError(f"the engine ended at once (exit {process.returncode})")
        time.sleep(_POLL_SECONDS)
    raise StartError(f"the engine did not answer within {START_SECONDS:.0f} s")


@contextlib.contextmanager
def _start_lock() -> Iterator[bool]:
    """Try to take ``start.lock``; yields whether this process has it now."""
    descriptor = os.open(paths.state_folder() / "start.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield _try_lock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sockets() -> Iterator[Path]:
    """Where an engine may listen: the place it noted, then the place of this environment."""
    noted = paths.noted_socket(paths.state_folder())
    if noted is not None:
        yield noted
    here = paths.socket_path()
    if here != noted:
        yield here
