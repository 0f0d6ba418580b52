"""How often to save what only an interruption needs."""

import time

SAVE_SECONDS = 60.0
"""How much work an interruption may cost, unless saving takes long."""
SAVE_SHARE = 20
"""Saving may take one part in this many of the time."""


class SavePace:
    """Says when the next save is due."""

    def __init__(self, seconds: float) -> None:
        """Save every ``seconds``, or less often where that would take too much time; 0: always."""
        self._seconds = seconds
        self._saved_at, self._took = time.monotonic(), 0.0

    def is_due(self) -> bool:
        """Whether the last save is old enough."""
        if self._seconds == 0:
            return True
        pause = max(self._seconds, SAVE_SHARE * self._took)
        return time.monotonic() - self._saved_at >= pause

    def saved(self) -> None:
        """Count from now on."""
        self._saved_at = time.monotonic()

    def took(self, seconds: float) -> None:
        """Say how long a save took."""
        self._took = seconds
