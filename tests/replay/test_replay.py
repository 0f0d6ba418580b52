"""Replay holds no more train states than its schedule allows, and computes no gradient twice."""

import weakref
from collections import Counter
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
from engine.replay.optimizer_stage import global_norm
from engine.replay.ranks import SINGLE_RANK
from engine.replay.replay import Replay
from engine.replay.state import Batch, Cotangent, Gradient, Params, TrainState

KINDS = get_args(CheckpointingKind)
LENGTHS = (1, 2, 5, 10, 23, 60)


class Alive:
    """Counts the registered objects that still exist."""

    def __init__(self) -> None:
        self.now = 0

    def add(self, thing: Any) -> None:
        self.now += 1
        weakref.finalize(thing, self._gone)

    def _gone(self) -> None:
        self.now -= 1


class Counting:
    """A step and a trajectory whose states only know their step, and who count what is alive."""

    def __init__(self, schedule: CheckpointingSchedule) -> None:
        self.schedule = schedule
        self.states, self.most_states = Alive(), 0
        self.grads, self.most_grads = Alive(), 0
        self.gradients: Counter[int] = Counter()
        self.pulled: list[int] = []
        self.stage, self.ranks = self, SINGLE_RANK

    def plan_reads(self, reads: Sequence[Read]) -> None:
        """Nothing is read ahead."""

    def load_state(self, step: int) -> TrainState:
        assert step in self.schedule.checkpoints or step == self.schedule.steps
        return self._new_state(step)

    def load_gradient(self, step: int) -> Gradient | None:
        return self._new_gradient(step) if self.schedule.keep_gradients else None

    def gradient(self, state: TrainState, batch: Batch) -> tuple[float, Gradient]:
        self._look()
        step = batch.denominator
        assert state.step == step
        self.gradients[step] += 1
        return 0.0, self._new_gradient(step)

    def apply(self, state: TrainState, grads: Gradient) -> TrainState:
        self._look()
        assert grads.params["step"] == state.step
        return self._new_state(state.step + 1)

    def vjp(
        self, state: TrainState, grads: Gradient, batch: Batch, cotangents: Sequence[Cotangent]
    ) -> torch.Tensor:
        self._look()
        assert grads.params["step"] == state.step == batch.denominator
        self.pulled.append(state.step)
        return torch.full((len(cotangents), 1), float(state.step))

    def state_tensors(self, optimizer: list[Any]) -> Params:
        return {}

    def norm(self, tensors: Params) -> torch.Tensor:
        return global_norm(tensors)

    def _look(self) -> None:
        self.most_states = max(self.most_states, self.states.now)
        self.most_grads = max(self.most_grads, self.grads.now)

    def _new_state(self, step: int) -> TrainState:
        state = TrainState(step, {"step": torch.tensor(float(step))}, [])
        self.states.add(state)
        return state

    def _new_gradient(self, step: int) -> Gradient:
        gradient = torch.tensor(float(step))
        self.grads.add(gradient)
        return Gradient({"step": gradient})


def batch_of(step: int) -> Batch:
    return Batch({}, torch.ones(1), step)


def replayed(kind: CheckpointingKind, steps: int) -> tuple[Counting, list[tuple[int, float]]]:
    counting: Any = Counting(checkpointing_schedule(kind, steps))
    scores: list[tuple[int, float]] = []
    cotangent = Cotangent({"step": torch.zeros(1)}, [])
    Replay(counting, counting, batch_of, counting.schedule).run(
        [cotangent], lambda step, pulled: scores.append((step, pulled.item()))
    )
    return counting, scores


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_states_alive_are_those_promised(kind: CheckpointingKind, steps: int) -> None:
    counting, _ = replayed(kind, steps)
    promised = counting.schedule.live_states
    assert counting.most_states <= promised
    assert counting.most_grads <= (2 if counting.schedule.keep_gradients else promised)
    assert counting.states.now == counting.grads.now == 0


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_scores_come_from_the_last_step_to_the_first(kind: CheckpointingKind, steps: int) -> None:
    counting, scores = replayed(kind, steps)
    backwards = list(range(steps))[::-1]
    assert counting.pulled == backwards
    assert scores == [(step, float(step)) for step in backwards]


@pytest.mark.parametrize("steps", LENGTHS)
def test_gradients_are_computed_as_seldom_as_promised(steps: int) -> None:
    # The last one is computed again to see whether the model still gives it.
    assert replayed("all", steps)[0].gradients == Counter([steps - 1])
    assert replayed("gradients", steps)[0].gradients == Counter([steps - 1])
    assert replayed("sqrt", steps)[0].gradients == Counter(range(steps))
    log = replayed("log", steps)[0]
    assert set(log.gradients) == set(range(steps))
    # One for every advance but those from a held state, and one for the last step.
    assert log.gradients.total() <= log.schedule.advances() + 1
