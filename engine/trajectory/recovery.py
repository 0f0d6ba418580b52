"""Surviving an interruption: how often to save, and where to resume."""

import time
from dataclasses import dataclass

from engine.replay.checkpointing import CheckpointingSchedule
from engine.replay.ranks import Ranks
from engine.runs.manifest import Key, Manifest

SAVE_SECONDS = 60.0
"""Default seconds of work that an interruption may lose."""
SAVE_SHARE = 20
"""Saving takes at most 1/20 of the time."""


class SaveTimer:
    """Decides when the next save is due."""

    def __init__(self, interval: float) -> None:
        """Save every ``interval`` seconds, or less often if saves take long; 0 saves always."""
        self._interval = interval
        self._saved_at, self._duration = time.monotonic(), 0.0

    def is_due(self) -> bool:
        """Whether the interval has passed since the last save."""
        if self._interval == 0:
            return True
        pause = max(self._interval, SAVE_SHARE * self._duration)
        return time.monotonic() - self._saved_at >= pause

    def restart(self) -> None:
        """Start the next interval now."""
        self._saved_at = time.monotonic()

    def record(self, seconds: float) -> None:
        """Record how long a save took."""
        self._duration = seconds


@dataclass(frozen=True)
class Remaining:
    """The steps that complete a trajectory: ``start`` … ``end`` - 1."""

    start: int
    end: int
    done: int
    """Steps that need no gradient: their states are on disk, or follow from gradients on disk."""

    @property
    def is_saved(self) -> bool:
        """Whether s_start is on disk; otherwise it is s_0, which is initialized again."""
        return self.start > 0


def remaining(manifest: Manifest, schedule: CheckpointingSchedule) -> Remaining | None:
    """The steps that are left; None if the trajectory is complete.

    Training resumes from the latest state before the first missing file and ends after the last
    missing file. One damaged file in the middle therefore costs one segment.
    """
    lacking = [key for key in expected(schedule) if key not in manifest.files]
    if not lacking:
        return None
    first = min(step for _, step in lacking)
    states = [step for kind, step in manifest.files if kind != "gradient" and step <= first]
    end = max(step + (kind == "gradient") for kind, step in lacking)
    start = max(states, default=0)
    return Remaining(start, end, first if schedule.keep_gradients else start)


def missing_elsewhere(manifest: Manifest, ranks: Ranks) -> set[Key]:
    """The files of this rank's part that another rank's part lacks, because it was killed earlier.

    Marks the manifest complete only if every rank's is.
    """
    common = set.intersection(*ranks.all_gather(set(manifest.files)))
    manifest.complete = all(ranks.all_gather(manifest.complete))
    return set(manifest.files) - common


def expected(schedule: CheckpointingSchedule) -> list[Key]:
    """Every file of a complete trajectory."""
    states: list[Key] = [("state", step) for step in (*schedule.checkpoints, schedule.steps)]
    if not schedule.keep_gradients:
        return states
    return states + [("gradient", step) for step in range(schedule.steps)]
