"""Facts of a run that come from its files: config, sizes, number of documents."""

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
"""Counting the bytes of the folders may take 1/50 of the time."""


@dataclass(frozen=True)
class Identity:
    """The facts of a run that its config determines."""

    name: str
    model: str
    trust_remote_code: bool
    code: list[str]
    created: float | None

    @classmethod
    def read(cls, folder: RunFolder) -> "Identity":
        """Read them from the run's folder.

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
    """Bytes of the trajectory and of the scores; counted rarely, since there can be many files."""

    def __init__(self, folder: RunFolder) -> None:
        """Start without a count."""
        self._folder = folder
        self._known: tuple[object, ...] = ()
        self._was_at_work = False
        self._due = 0.0
        self.trajectory = self.scores = 0

    def update(self, state: tuple[object, ...], at_work: bool) -> None:
        """Count again if it is due.

        While a process works on the run, every few seconds; else if ``state`` or a folder changed.
        """
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
    """The number of documents a run trains on; None while unknown.

    Raises:
        RunError: if the table differs from its digest.
    """
    if not folder.documents_file.exists():
        return None
    import pyarrow.parquet as pq

    verify(folder.documents_file)
    # Unfinished or damaged: the readers of documents raise the error.
    with contextlib.suppress(Exception):
        return int(pq.read_metadata(check_regular(folder.documents_file)).num_rows)
    return None
