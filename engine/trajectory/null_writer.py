"""A rank whose shards another rank keeps as well: it follows a trajectory without writing it."""

from pathlib import Path

from engine.replay.checkpointing import CheckpointingSchedule
from engine.replay.ranks import Ranks
from engine.replay.state import Gradient, TrainState
from engine.runs.manifest import Key, Manifest, read_part
from engine.trajectory.recovery import agree


class NullWriter:
    """Stands where another rank has a trajectory writer, and agrees with it about what is kept."""

    def __init__(self, folder: Path, schedule: CheckpointingSchedule, ranks: Ranks) -> None:
        """Follow the part of a trajectory in ``folder``."""
        self.schedule = schedule
        self.manifest = read_part(folder) or Manifest(schedule.kind, schedule.steps)
        self._ranks = ranks
        self._kept = {*schedule.checkpoints, schedule.steps}
        for key in agree(self.manifest, ranks):
            self.drop(key)

    def __enter__(self) -> "NullWriter":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def take_state(self, state: TrainState) -> None:
        """Be asked, as all ranks are, whether it is time to save."""
        if state.step not in self._kept:
            self._ranks.any(False)

    def take_gradient(self, step: int, grads: Gradient) -> None:
        """The writer has it."""

    def save(self, state: TrainState) -> None:
        """The writer does."""

    def drop(self, key: Key) -> None:
        """Forget a file that is damaged."""
        self.manifest.take({"event": "dropped", "kind": key[0], "step": key[1]})
