"""List the runs of a folder, find one by id or name, and remove half-created ones."""

import contextlib
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from engine.runs.errors import ConflictError, NotFoundError, RunError
from engine.runs.run_folder import ID, RunFolder, read_yaml

STAGING_GRACE_SECONDS = 60.0
"""An upper bound; creating a run takes much less."""
_STAGING = re.compile(rf"\.{ID}\.new")


def sweep(folder: Path) -> None:
    """Remove the runs in ``folder`` whose creation was interrupted."""
    for staging in folder.glob(".*.new"):
        # Other entries of the folder were not created by magic.
        ours = _STAGING.fullmatch(staging.name) and staging.is_dir()
        if ours and time.time() - staging.stat().st_mtime >= STAGING_GRACE_SECONDS:
            shutil.rmtree(staging, ignore_errors=True)


def list_runs(runs: Path) -> list[RunFolder]:
    """All runs, oldest first; other folders are skipped."""
    if not runs.is_dir():
        return []
    entries = (entry for entry in runs.iterdir() if not entry.name.startswith("."))
    folders = [RunFolder(entry) for entry in entries if (entry / "run_config.yaml").exists()]
    return sorted(folders, key=lambda run: run.id)


def run_of_id(runs: Path, run_id: str) -> RunFolder:
    """The run of an id, even if its folder was renamed; it need not exist."""
    usual = RunFolder(runs / run_id)
    if usual.path.exists():
        return usual
    return next((run for run in list_runs(runs) if run.id == run_id), usual)


def find_run(
    runs: Path,
    wanted: str | None = None,
    name_of: Callable[[RunFolder], str | None] | None = None,
) -> RunFolder:
    """The run of an id or folder, a unique prefix of an id, or a name; by default the latest.

    ``name_of`` returns a run's name without reading its config.

    Raises:
        NotFoundError: if none matches.
        ConflictError: if several do.
    """
    known = list_runs(runs)
    if not known:
        raise NotFoundError(f"there are no runs in {runs}; start one with: magic run CONFIG")
    if wanted is None:
        return known[-1]
    matches = [run for run in known if wanted in (run.id, run.path.name)]
    matches = matches or [run for run in known if wanted and run.id.startswith(wanted)]
    matches = matches or [run for run in known if (name_of or _name)(run) == wanted]
    if not matches:
        raise NotFoundError(
            f"no run in {runs} has the id, prefix or name {wanted!r}; see: magic ls"
        )
    if len(matches) > 1:
        ids = ", ".join(run.id for run in matches[-4:])
        raise ConflictError(f"{wanted!r} matches {len(matches)} runs ({ids}); give a longer id")
    return matches[0]


def _name(run: RunFolder) -> str | None:
    import yaml

    bad = (RunError, OSError, yaml.YAMLError, ValueError, TypeError, AttributeError)
    with contextlib.suppress(*bad):
        values = read_yaml(run.config_file)
        return values.get("name") if isinstance(values, dict) else None
    return None
