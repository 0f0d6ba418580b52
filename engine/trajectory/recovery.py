"""Where an interrupted or damaged trajectory goes on: a pure function of what is on disk."""

from dataclasses import dataclass

from engine.replay.checkpointing import CheckpointingSchedule
from engine.replay.ranks import Ranks
from engine.runs.manifest import Key, Manifest


@dataclass(frozen=True)
class Remaining:
    """The steps to take so that a trajectory is whole: ``start`` … ``end`` - 1."""

    start: int
    end: int
    done: int
    """Steps that need not be trained again: their states, or the gradients that give them, are
    on disk."""

    @property
    def is_saved(self) -> bool:
        """Whether s_start has to be read; s_0 is drawn anew otherwise."""
        return self.start > 0


def remaining(manifest: Manifest, schedule: CheckpointingSchedule) -> Remaining | None:
    """What is left to do; None if nothing is.

    Training goes on from the latest state on disk with nothing missing before it, and ends
    where nothing is missing any more: a damaged file in the middle costs one segment.
    """
    lacking = [key for key in expected(schedule) if key not in manifest.files]
    if not lacking:
        return None
    first = min(step for _, step in lacking)
    states = [step for kind, step in manifest.files if kind != "gradient" and step <= first]
    end = max(step + (kind == "gradient") for kind, step in lacking)
    start = max(states, default=0)
    return Remaining(start, end, first if schedule.keep_gradients else start)


def agree(manifest: Manifest, ranks: Ranks) -> set[Key]:
    """What to drop of this rank's part of a trajectory: a rank that was killed has kept less.

    A part counts as complete only if all are.
    """
    common = set.intersection(*ranks.all_gather(set(manifest.files)))
    manifest.complete = all(ranks.all_gather(manifest.complete))
    return set(manifest.files) - common


def expected(schedule: CheckpointingSchedule) -> list[Key]:
    """Everything that a complete trajectory keeps."""
    states: list[Key] = [("state", step) for step in (*schedule.checkpoints, schedule.steps)]
    if not schedule.keep_gradients:
        return states
    return states + [("gradient", step) for step in range(schedule.steps)]
