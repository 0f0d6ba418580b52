"""A run's journal and logs followed on disk: what they hold, then whatever is added.

Read from the files themselves, so that a run is still seen while no engine is there.
"""

from pathlib import Path
from typing import Any

from engine.runs.errors import RunError
from engine.runs.journal import JournalReader
from engine.runs.run_folder import RunFolder
from engine.runs.safe_open import open_regular

_PIECE = 2**20
_LOG_PIECE = 2**16


class Follower:
    """Reads a run's journal from its beginning on."""

    def __init__(self, run: RunFolder) -> None:
        """Follow ``run``."""
        self.run = run
        self._reader = JournalReader(run.events_file)

    def read(self) -> list[dict[str, Any]]:
        """Some events that come next; none if there are no more for now.

        Raises:
            RunError: if the folder is gone, or its journal is damaged or was replaced.
        """
        if not self.run.path.is_dir():
            raise RunError(f"the folder of run {self.run.id} is gone: {self.run.path}")
        if self._reader.has_shrunk():
            raise RunError(f"{self.run.events_file} was replaced; open the run again: 1, then ⏎")
        return self._reader.poll(_PIECE)

    def close(self) -> None:
        """Let go of the journal."""
        self._reader.close()


def last_printed(run: RunFolder, lines: int = 500) -> list[str]:
    """The end of the newest log file; nothing if there is none."""
    try:
        files = sorted(path for path in run.logs.iterdir() if path.is_file())
        return _end_of(files[-1])[-lines:] if files else []
    except (OSError, RunError):
        return []


def _end_of(path: Path) -> list[str]:
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _LOG_PIECE))
        content = file.read().decode(errors="replace").splitlines()
    return content[1:] if size > _LOG_PIECE else content
