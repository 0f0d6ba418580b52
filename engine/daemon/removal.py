"""Removing a run, or its trajectory alone, when nothing needs it any more."""

import os
import time
from pathlib import Path
from typing import Literal

from engine.daemon.cleaning import hidden, remove_tree
from engine.daemon.views import RunMonitor
from engine.runs.api_schema import Removed
from engine.runs.atomic import size_on_disk, sync_folder
from engine.runs.errors import ConflictError, RunError
from engine.runs.jobs import jobs_of
from engine.runs.run_folder import RunFolder
from engine.runs.states import RunState

What = Literal["run", "trajectory"]
_PATIENCE_SECONDS = 2.0


def size_of(watch: RunMonitor, what: What) -> int:
    """Bytes that a removal frees; behind a link nothing is removed."""
    doomed = _doomed(watch.folder, what)
    return 0 if doomed.is_symlink() else size_on_disk(doomed)


def hide(watch: RunMonitor, what: What) -> Path:
    """Move what is to be removed out of sight, durably; returns where it is now.

    Raises:
        ConflictError: if it is needed.
    """
    watch.refresh()
    _refuse_needed(watch, what)
    _await_end(watch.folder)
    doomed = _doomed(watch.folder, what)
    gone = hidden(doomed)
    try:
        with watch.folder.lock(patience=0.2):
            remove_tree(gone)
            if os.path.lexists(doomed):
                os.rename(doomed, gone)
                sync_folder(gone.parent)
    except RunError as error:
        raise ConflictError(str(error)) from None
    return gone


def clear(gone: Path, watch: RunMonitor, what: What, size: int) -> Removed:
    """Free the disk of what was moved out of sight.

    Raises:
        RunError: if that cannot be done.
    """
    try:
        remove_tree(gone)
    except OSError as error:
        raise RunError(
            f"{error.filename or gone} could not be removed: {error.strerror}; remove {gone} "
            "yourself"
        ) from None
    return Removed(removed=str(_doomed(watch.folder, what)), freed_bytes=size)


def _doomed(folder: RunFolder, what: What) -> Path:
    return folder.path if what == "run" else folder.trajectory


def _refuse_needed(watch: RunMonitor, what: What) -> None:
    run = watch.folder.id
    for job in watch.jobs:
        if job.state.finished or (what == "run" and job.state is RunState.PAUSED):
            continue
        if job.state is RunState.PAUSED:
            raise ConflictError(
                f"job {job.number} of run {run} is paused and needs the trajectory to go on; "
                f"cancel it first with: magic cancel {run}"
            )
        raise ConflictError(
            f"job {job.number} of run {run} is {job.state}; wait until it ends, or cancel it "
            f"first with: magic cancel {run}"
        )


def _await_end(folder: RunFolder) -> None:
    """The processes of a job that has ended may need a moment to go."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    attempts = [attempt for job in jobs_of(folder) for attempt in job.attempts()[-1:]]
    while any(attempt.is_held() for attempt in attempts):
        if time.monotonic() >= deadline:
            raise ConflictError(f"run {folder.id} is at work; wait until it ends, then remove it")
        time.sleep(0.05)
