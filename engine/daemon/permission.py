"""Whether the engine may start a job: one that was asked of it, in files of its own user.

A job may load a task file or a model's own code, as the user whom the engine belongs to. So a job
starts only if the registry holds it (see :mod:`engine.daemon.registry`), if the run's own files
belong to that user, and if nobody else could have put other files in their place, unless the user
accepted that once for the runs folder.
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
"""The user accepted that others may write in a runs folder."""
CODE = "code"
"""The digest of the code of a run that was submitted here, or that the user accepted."""
_DATA = ("trajectory", "rows.zarr", "attributions", "validation", "logs")
"""Folders of a run that hold numbers and texts: nothing in them is executed."""
_OTHERS_WRITE, _OTHERS_ENTER = 0o022, 0o011


class Permission:
    """What the engine's user asked for and accepted."""

    def __init__(self, registry: Registry) -> None:
        """Go by ``registry``."""
        self._registry = registry

    def not_asked(self, job: JobMonitor) -> str | None:
        """Why a job is not one that this engine starts; None if it is."""
        run = job.folder.run
        home = job.moved_from()
        if home is not None:
            return (
                f"was copied or moved here from {home}; go on with it here with: "
                f"magic resume {run.id}"
            )
        if self._registry.position((run.path, job.number)) is None:
            return (
                "was not submitted to this engine, or the engine's record of it was lost; have "
                f"the engine go on with it with: magic resume {run.id}"
            )
        return None

    def refusal(self, run: RunFolder) -> str | None:
        """Why nothing may be started in a run's folder; None if it may.

        Raises:
            OSError: if it cannot be looked at.
        """
        return _foreign(run) or self.shared(run.path.parent, run.path)

    def shared(self, runs: Path, run: Path | None = None) -> str | None:
        """Why others could replace files of a run, or of any in a folder; None if they could not.

        The run may be a link: then both the link and what it points to count.
        """
        places = [Path(os.path.realpath(place)) for place in (runs, run or runs)]
        found = next(filter(None, map(_exposed, places)), None)
        if found is None or self._accepted(runs):
            return None
        folder, why = found
        return (
            f"{folder} {why}, so another user could have it run their programs in your name; make "
            f"it yours alone with: chmod go-w {folder} - or, if you trust whoever may write there, "
            f"say so once with: magic engine allow {runs}"
        )

    def check(self, run: RunFolder) -> None:
        """Refuse to take on work in a run's folder.

        Raises:
            ConflictError: saying what is wrong with it, and the remedy.
        """
        if (reason := self.refusal(run)) is not None:
            raise ConflictError(f"run {run.id} cannot go on: {reason}")
        config = run.config()
        if not self.has_accepted(config, run):
            raise ConflictError(
                f"run {run.id} runs code: {'; '.join(code_of(config))}; it did not come from you, "
                "or was changed since you accepted it: look at it, then accept it once with "
                f"--trust: magic resume, attribute or validate {run.id} --trust"
            )

    def has_accepted(self, config: RunConfig, run: RunFolder) -> bool:
        """Whether the code that a run brings, if any, is what was submitted here or accepted."""
        return not code_of(config) or self._registry.said(run.path, CODE) == code_digest(config)

    def accept_code(self, config: RunConfig, run: RunFolder) -> None:
        """Remember that the user accepts the code of a run as it is now."""
        if code_of(config):
            self._registry.say(run.path, CODE, code_digest(config))

    def _accepted(self, path: Path) -> bool:
        return any(self._registry.said(place, SHARED) for place in (path, *path.parents))


def _foreign(run: RunFolder) -> str | None:
    """A file of a run that decides what is executed and that belongs to another user."""
    for path in _deciding(run.path):
        try:
            owner = os.stat(path).st_uid
        except FileNotFoundError:
            # Just gone, or a link to nothing: nobody reads it.
            continue
        if owner != os.geteuid():
            return (
                f"{path} belongs to user {owner}, not to you, and work starts in your own files "
                f"only; copy the run to a runs folder of yours with: cp -r {run.path} DIR - then "
                f"go on with it there with: magic resume {run.id} --runs-dir DIR"
            )
    return None


def _deciding(folder: Path) -> Iterator[str]:
    yield str(folder)
    for place, folders, files in os.walk(folder):
        if place == str(folder):
            folders[:] = [name for name in folders if name not in _DATA]
        for name in (*folders, *files):
            yield os.path.join(place, name)


def _exposed(path: Path) -> tuple[Path, str] | None:
    """The first folder down to ``path`` in which others can replace what is there, and why."""
    for folder in [*reversed(path.parents), path]:
        try:
            entry = folder.stat()
        except FileNotFoundError:
            # Made by the engine when it is needed.
            return None
        if entry.st_uid not in (0, os.geteuid()):
            return folder, f"belongs to user {entry.st_uid}"
        writable = entry.st_mode & _OTHERS_WRITE and not entry.st_mode & stat.S_ISVTX
        if writable and not (entry.st_mode & 0o002 == 0 and _is_private_group(entry.st_gid)):
            return folder, f"may be written by others (mode {stat.S_IMODE(entry.st_mode):04o})"
        if entry.st_uid == os.geteuid() and not entry.st_mode & _OTHERS_ENTER:
            # Nobody else gets to what is below.
            return None
    return None


def _is_private_group(group: int) -> bool:
    """Whether a group is the user's own and has no other member, as many systems make one each."""
    try:
        user, entry = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return entry.gr_name == user.pw_name and set(entry.gr_mem) <= {user.pw_name}
