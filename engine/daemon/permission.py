"""Decide whether the engine may start a job.

A job may load a task file or a model's own code, with the rights of the engine's user. So a job
starts only if it is in the queue (:mod:`engine.daemon.registry`), if the run's files belong to that
user, and if no other user could have replaced them, unless the user accepted that for the runs
folder.
"""

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from engine.daemon.job_monitor import JobMonitor
from engine.daemon.registry import Registry
from engine.runs.config import RunConfig
from engine.runs.errors import ConflictError
from engine.runs.loaded_code import code_digest, code_of
from engine.runs.run_folder import RunFolder

SHARED = "shared"
"""The fact that the user accepts that others may write in a runs folder."""
CODE = "code"
"""The fact that holds the digest of a run's code as it was submitted here or accepted."""
_DATA = ("trajectory", "rows.zarr", "attributions", "validation", "logs")
"""Folders of a run that hold numbers and texts; nothing in them is executed."""
_OTHERS_WRITE, _OTHERS_ENTER = 0o022, 0o011


class Permission:
    """Checks jobs and folders against the queue and what the user accepted."""

    def __init__(self, registry: Registry) -> None:
        """Read the queue and the facts of ``registry``."""
        self._registry = registry

    def unqueued_reason(self, job: JobMonitor) -> str | None:
        """Why the engine does not start a job, if it is not in the queue; None if it is."""
        run = job.folder.run
        home = job.moved_from()
        if home is not None:
            return (
                f"was copied or moved here from {home}; resume it here with: magic resume {run.id}"
            )
        if self._registry.position((run.path, job.number)) is None:
            return (
                "was not submitted to this engine, or the engine's record of it was lost; resume "
                f"it with: magic resume {run.id}"
            )
        return None

    def refusal(self, run: RunFolder) -> str | None:
        """Why no job may start in a run's folder; None if one may.

        Raises:
            OSError: if the folder cannot be read.
        """
        return _foreign_file(run) or self.shared(run.path.parent, run.path)

    def shared(self, runs: Path, run: Path | None = None) -> str | None:
        """Why others could replace files of a run, or of any run in a folder; None if they cannot.

        If the run is a link, both the link and its target are checked.
        """
        paths = [Path(os.path.realpath(path)) for path in (runs, run or runs)]
        exposed = next(filter(None, map(_exposed, paths)), None)
        if exposed is None or self._accepted(runs):
            return None
        folder, why = exposed
        return (
            f"{folder} {why}, so another user could run programs in your name; remove that "
            f"right with: chmod go-w {folder} - or, if you trust everyone who may write there, "
            f"accept it with: magic engine allow {runs}"
        )

    def check(self, run: RunFolder) -> None:
        """Refuse a request for work in a run's folder if no job may start there.

        Raises:
            ConflictError: with the cause and the remedy.
        """
        if (reason := self.refusal(run)) is not None:
            raise ConflictError(f"run {run.id} cannot start: {reason}")
        config = run.config()
        if not self.has_accepted(config, run):
            raise ConflictError(
                f"run {run.id} runs code: {'; '.join(code_of(config))}; you did not submit it, or "
                "it has changed since you accepted it: read it, then accept it with --trust: "
                f"magic resume, attribute or validate {run.id} --trust"
            )

    def has_accepted(self, config: RunConfig, run: RunFolder) -> bool:
        """Whether the code that a run loads, if any, is as it was submitted here or accepted."""
        return not code_of(config) or self._registry.fact(run.path, CODE) == code_digest(config)

    def accept_code(self, config: RunConfig, run: RunFolder) -> None:
        """Store that the user accepts the present code of a run."""
        if code_of(config):
            self._registry.set_fact(run.path, CODE, code_digest(config))

    def _accepted(self, path: Path) -> bool:
        return any(self._registry.fact(folder, SHARED) for folder in (path, *path.parents))


def _foreign_file(run: RunFolder) -> str | None:
    """Why the run's files are not all the user's own; None if they are. Data files are exempt."""
    for path in _files_that_decide(run.path):
        try:
            owner = os.stat(path).st_uid
        except FileNotFoundError:
            # Removed just now, or a broken link: nothing to execute.
            continue
        if owner != os.geteuid():
            return (
                f"{path} belongs to user {owner}, not to you, and jobs start in your own files "
                f"only; copy the run to your own runs folder with: cp -r {run.path} DIR - then "
                f"resume it there with: magic resume {run.id} --runs-dir DIR"
            )
    return None


def _files_that_decide(folder: Path) -> Iterator[str]:
    """The files and folders of a run that decide what is executed."""
    yield str(folder)
    for parent, folders, files in os.walk(folder):
        if parent == str(folder):
            folders[:] = [name for name in folders if name not in _DATA]
        for name in (*folders, *files):
            yield os.path.join(parent, name)


def _exposed(path: Path) -> tuple[Path, str] | None:
    """The first folder on the way to ``path`` in which others can replace files, and why."""
    for folder in [*reversed(path.parents), path]:
        try:
            entry = folder.stat()
        except FileNotFoundError:
            # The engine creates it when it is needed.
            return None
        if entry.st_uid not in (0, os.geteuid()):
            return folder, f"belongs to user {entry.st_uid}"
        writable = entry.st_mode & _OTHERS_WRITE and not entry.st_mode & stat.S_ISVTX
        if writable and not (entry.st_mode & 0o002 == 0 and _is_private_group(entry.st_gid)):
            return folder, f"may be written by others (mode {stat.S_IMODE(entry.st_mode):04o})"
        if entry.st_uid == os.geteuid() and not entry.st_mode & _OTHERS_ENTER:
            # Others cannot enter, so nothing below is exposed.
            return None
    return None


def _is_private_group(group: int) -> bool:
    """Whether a group is the user's own and has no other member, the default of many systems."""
    try:
        user, entry = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return entry.gr_name == user.pw_name and set(entry.gr_mem) <= {user.pw_name}
