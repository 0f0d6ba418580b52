"""Ending an engine, and waiting until its process is really gone."""

import os
import select
import time
from pathlib import Path

from engine.runs.errors import UnreachableError
from magic_tui.client.http import BrokenOffError, Question, ask
from magic_tui.client.start import BUSY, engine_pid, stopped_note

_STOP_SECONDS, _LOOK_SECONDS = 30.0, 0.1


def end_engine(listening: Path, pid: int) -> None:
    """End the engine at a socket, on purpose, and wait for its process.

    The lock is no sign: another engine may take it at once.

    Raises:
        UnreachableError: if it does not end.
    """
    process = _opened(pid)
    try:
        stopped_note().touch()
        deadline = time.monotonic() + _STOP_SECONDS
        asked = False
        while not (asked := asked or _ask_to_end(listening)) or not _has_ended(process, pid):
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"the engine, process {pid}, has not ended within {_STOP_SECONDS:.0f} s; end "
                    f"it with: kill {pid}"
                )
    finally:
        if process is not None:
            os.close(process)


def _ask_to_end(listening: Path) -> bool:
    """Whether it knows now; an engine that is too busy has to be asked again."""
    try:
        answer = ask(listening, Question("POST", "/v1/engine/stop", {}, timeout=_STOP_SECONDS))
    except BrokenOffError:
        return True
    if answer.status == BUSY:
        time.sleep(_LOOK_SECONDS)
    return answer.status != BUSY


def _opened(pid: int) -> int | None:
    """A descriptor that stays with its process, whoever gets the id afterwards."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        # It ended just now, it is in another container, or the system has no such descriptors.
        return None


def _has_ended(process: int | None, pid: int) -> bool:
    if process is not None:
        return bool(select.select([process], [], [], _LOOK_SECONDS)[0])
    time.sleep(_LOOK_SECONDS)
    return engine_pid() != str(pid)
