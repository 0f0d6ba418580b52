"""Removing things: out of sight first, so that nothing half removed is ever read."""

import contextlib
import logging
import os
import re
import shutil
from pathlib import Path

from engine.daemon.job_monitor import JobMonitor
from engine.runs.api_schema import RUN_ID
from engine.runs.listing import list_runs, sweep

log = logging.getLogger(__name__)
_REMOVED = ".removed"
_RUN = re.compile(RUN_ID)


def hidden(path: Path) -> Path:
    """What ``path`` is called while it is being removed."""
    return path.with_name(f".{path.name}{_REMOVED}")


def remove_tree(path: Path) -> None:
    """Remove a folder; of a link only the link."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
        return
    while path.exists():
        # Another engine, or another thread of this one, may be removing it as well.
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
            gone = unfinished.with_name(f".{name}{_REMOVED}")
            remove_tree(gone)
            os.rename(unfinished, gone)
            remove_tree(gone)
    except OSError as error:
        log.warning("%s could not be removed: %s", unfinished, error)


def finish_removals(runs_dir: Path) -> None:
    """Remove what an engine that was killed had begun to remove or to make in a runs folder."""
    try:
        sweep(runs_dir)
        doomed = [p for p in runs_dir.glob(f".*{_REMOVED}") if _RUN.match(_name(p))]
        for run in list_runs(runs_dir):
            doomed += [hidden(run.trajectory), *run.attributions.glob(f".a*{_REMOVED}")]
        for path in doomed:
            remove_tree(path)
    except OSError as error:
        log.warning("what is left over in %s could not be removed: %s", runs_dir, error)


def _name(path: Path) -> str:
    return path.name.removeprefix(".").removesuffix(_REMOVED)
