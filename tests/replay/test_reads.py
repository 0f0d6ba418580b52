"""The loads of a replay are known in advance, in order."""

from collections.abc import Sequence
from typing import Any, get_args

import pytest
import torch

from engine.replay.checkpointing import (
    CheckpointingKind,
    CheckpointingSchedule,
    Read,
    checkpointing_schedule,
)
from engine.replay.ranks import SINGLE_RANK
from engine.replay.replay import Replay
from engine.replay.state import Batch, Cotangent, Gradient, Params, TrainState

ZERO, ONE = torch.zeros(1), torch.ones(1)
EMPTY = Batch({}, ONE, 1)


class Listening:
    """A trajectory that records its planned reads and its actual reads.

    It is the step function as well, of a training that changes nothing.
    """

    def __init__(self, schedule: CheckpointingSchedule) -> None:
        self.schedule = schedule
        self.expected: list[list[Read]] = []
        self.loaded: list[Read] = []
        self.stage, self.ranks = self, SINGLE_RANK

    def plan_reads(self, reads: Sequence[Read]) -> None:
        assert not self.loaded
        self.expected.append(list(reads))

    def load_state(self, step: int) -> TrainState:
        self.loaded.append(("state", step))
        return TrainState(step, {"p": ONE}, [])

    def load_gradient(self, step: int) -> Gradient | None:
        if not self.schedule.keep_gradients:
            return None
        self.loaded.append(("gradient", step))
        return Gradient({"p": ONE})

    def gradient(self, state: TrainState, batch: Batch) -> tuple[float, Gradient]:
        return 0.0, Gradient({"p": ONE})

    def apply(self, state: TrainState, grads: Gradient) -> TrainState:
        return TrainState(state.step + 1, state.params, [])

    def vjp(self, *_: Any) -> torch.Tensor:
        return ONE

    def state_tensors(self, optimizer: list[Any]) -> Params:
        return {}

    def norm(self, tensors: Params) -> torch.Tensor:
        return ZERO


@pytest.mark.parametrize("kind", get_args(CheckpointingKind))
def test_what_is_expected_is_what_is_loaded(kind: CheckpointingKind) -> None:
    for steps in range(1, 41):
        schedule = checkpointing_schedule(kind, steps)
        for start in (None, *range(steps + 1)):
            listening: Any = Listening(schedule)
            Replay(listening, listening, lambda step: EMPTY, schedule).run(
                [Cotangent({"p": ONE}, [])], lambda step, scores: None, start
            )
            assert listening.expected == [listening.loaded], (steps, start)
            assert listening.loaded or start == 0
