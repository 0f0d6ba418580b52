"""What a run's files say apart from its jobs, each kept until its file changes."""

import contextlib
import time
from dataclasses import dataclass

from engine.daemon.job_monitor import modified_at
from engine.runs.atomic import size_on_disk
from engine.runs.checksummed import verify
from engine.runs.loaded_code import code_of
from engine.runs.run_folder import RunFolder
from engine.runs.safe_open import check_regular

_SIZE_SECONDS = 5.0
_SIZE_SHARE = 50
"""Counting a folder's bytes may take one part in so many of the time."""


@dataclass(frozen=True)
class Identity:
    """What the config says of a run."""

    name: str
    model: str
    trust_remote_code: bool
    code: list[str]
    created: float | None

    @classmethod
    def read(cls, folder: RunFolder) -> "Identity":
        """Read it.

        Raises:
            UsageError: if the config cannot be read.
        """
        config, created = folder.config(), folder.record().get("created")
        return cls(
            config.name,
            config.model.path,
            config.model.trust_remote_code,
            code_of(config),
            float(created) if isinstance(created, int | float) else None,
        )


class Sizes:
    """Bytes of the trajectory and of the scores, counted seldom: there may be many files."""

    def __init__(self, folder: RunFolder) -> None:
        """Count nothing yet."""
        self._folder = folder
        self._known: tuple[object, ...] = ()
        self._was_at_work = False
        self._due = 0.0
        self.trajectory = self.scores = 0

    def update(self, state: tuple[object, ...], at_work: bool) -> None:
        """Count again: now and then while at work, else when ``state`` or the folders changed."""
        folders = (self._folder.trajectory, self._folder.attributions)
        known = (*state, *map(modified_at, folders))
        began = time.monotonic()
        if at_work and self._was_at_work:
            if began < self._due:
                return
        elif known == self._known and at_work == self._was_at_work:
            return
        self.trajectory, self.scores = map(size_on_disk, folders)
        now = time.monotonic()
        self._due = now + max(_SIZE_SECONDS, _SIZE_SHARE * (now - began))
        self._known, self._was_at_work = known, at_work


def count_documents(folder: RunFolder) -> int | None:
    """How many documents a run was trained on; None while that is not known.

    Raises:
        RunError: if the table is not what it was.
    """
    if not folder.documents_file.exists():
        return None
    import pyarrow.parquet as pq

    verify(folder.documents_file)
    # Not whole yet, or damaged: whoever reads the documents will say which.
    with contextlib.suppress(Exception):
        return int(pq.read_metadata(check_regular(folder.documents_file)).num_rows)
    return None
