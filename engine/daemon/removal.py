"""Remove runs, trajectories and unfinished attributions.

A removal first renames the folder to a hidden name, so that no partly removed folder is ever read.
"""

import contextlib
import logging
import os
import re
import shutil
import time
from pathlib import Path
from typing import Literal

from engine.daemon.job_monitor import JobMonitor
from engine.daemon.run_monitor import RunMonitor
from engine.runs.api_schema import RUN_ID, Removed
from engine.runs.atomic import size_on_disk, sync_folder
from engine.runs.errors import ConflictError, RunError
from engine.runs.jobs import jobs_of
from engine.runs.listing import list_runs, sweep
from engine.runs.run_folder import RunFolder
from engine.runs.states import RunState

log = logging.getLogger(__name__)

What = Literal["run", "trajectory"]
_REMOVED = ".removed"
_RUN = re.compile(RUN_ID)
_EXIT_SECONDS = 2.0


def size_of(monitor: RunMonitor, what: What) -> int:
    """Bytes that a removal frees; 0 for a link, whose target stays."""
    target = _target(monitor.folder, what)
    return 0 if target.is_symlink() else size_on_disk(target)


def hide(monitor: RunMonitor, what: What) -> Path:
    """Rename what is to be removed to a hidden name, durably; returns the new path.

    Raises:
        ConflictError: if a job needs it.
    """
    monitor.refresh()
    _refuse_if_needed(monitor, what)
    _await_exit(monitor.folder)
    target = _target(monitor.folder, what)
    hidden = _hidden(target)
    try:
        with monitor.folder.lock(patience=0.2):
            remove_tree(hidden)
            if os.path.lexists(target):
                os.rename(target, hidden)
                sync_folder(hidden.parent)
    except RunError as error:
        raise ConflictError(str(error)) from None
    return hidden


def clear(hidden: Path, monitor: RunMonitor, what: What, size: int) -> Removed:
    """Delete what was hidden.

    Raises:
        RunError: if that fails.
    """
    try:
        remove_tree(hidden)
    except OSError as error:
        raise RunError(
            f"{error.filename or hidden} could not be removed: {error.strerror}; remove {hidden} "
            "yourself"
        ) from None
    return Removed(removed=str(_target(monitor.folder, what)), freed_bytes=size)


def remove_tree(path: Path) -> None:
    """Remove a folder; of a link only the link."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
        return
    while path.exists():
        # Another engine, or another thread, may be removing it as well.
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)


def remove_unfinished_attribution(job: JobMonitor) -> None:
    """Remove what a cancelled job had computed of its attribution."""
    name = job.request.attribution
    if name is None or job.request.work == "validate":
        return
    unfinished = job.folder.run.attributions / f".{name}.new"
    try:
        if unfinished.is_dir():
            hidden = unfinished.with_name(f".{name}{_REMOVED}")
            remove_tree(hidden)
            os.rename(unfinished, hidden)
            remove_tree(hidden)
    except OSError as error:
        log.warning("%s could not be removed: %s", unfinished, error)


def finish_removals(runs_dir: Path) -> None:
    """Remove what a killed engine left half removed or half created in a folder of runs."""
    try:
        sweep(runs_dir)
        paths = [
            path
            for path in runs_dir.glob(f".*{_REMOVED}")
            if _RUN.match(path.name.removeprefix(".").removesuffix(_REMOVED))
        ]
        for run in list_runs(runs_dir):
            paths += [_hidden(run.trajectory), *run.attributions.glob(f".a*{_REMOVED}")]
        for path in paths:
            remove_tree(path)
    except OSError as error:
        log.warning("leftovers in %s could not be removed: %s", runs_dir, error)


def _hidden(path: Path) -> Path:
    """The name of ``path`` while it is being removed."""
    return path.with_name(f".{path.name}{_REMOVED}")


def _target(folder: RunFolder, what: What) -> Path:
    return folder.path if what == "run" else folder.trajectory


def _refuse_if_needed(monitor: RunMonitor, what: What) -> None:
    run = monitor.folder.id
    for job in monitor.jobs:
        if job.state.finished or (what == "run" and job.state is RunState.PAUSED):
            continue
        if job.state is RunState.PAUSED:
            raise ConflictError(
                f"job {job.number} of run {run} is paused and needs the trajectory; cancel it "
                f"first with: magic cancel {run}"
            )
        raise ConflictError(
            f"job {job.number} of run {run} is {job.state}; wait until it ends, or cancel it "
            f"first with: magic cancel {run}"
        )


def _await_exit(folder: RunFolder) -> None:
    """Wait for the processes of a job that has ended, which may take a moment to exit."""
    deadline = time.monotonic() + _EXIT_SECONDS
    attempts = [attempt for job in jobs_of(folder) for attempt in job.attempts()[-1:]]
    while any(attempt.is_held() for attempt in attempts):
        if time.monotonic() >= deadline:
            raise ConflictError(f"run {folder.id} is running; wait until it ends, then remove it")
        time.sleep(0.05)
