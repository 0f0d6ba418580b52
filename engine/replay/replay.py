"""REPLAY: propagate cotangents from the end of a trajectory back to its start.

Follows the actions of a checkpointing schedule (arXiv 2503.13751). States, and gradients if they
were stored, come from the trajectory. Everything else is recomputed by the step function that
trained, so the scores do not depend on the schedule.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from engine.replay.checkpointing import CheckpointingSchedule, Operation, Read
from engine.replay.rounding import Signals
from engine.replay.state import Batch, Cotangent, Gradient, Params, TrainState
from engine.replay.train_step import TrainStep


class Observer(Protocol):
    """Receives progress events; must not block for long, nor affect the computation."""

    def __call__(self, event: str, /, **facts: Any) -> None:
        """Receive one event; values are plain Python numbers, strings and lists."""


def null_observer(event: str, /, **facts: Any) -> None:
    """The observer that ignores all events."""


Loaded = TypeVar("Loaded")


class DivergedError(ArithmeticError):
    """A loss, gradient or cotangent is not finite at ``step``."""

    def __init__(self, what: str, step: int) -> None:
        """Name the value that is not finite, and the step."""
        super().__init__(f"the {what} is not finite at step {step}")
        self.what = what
        self.step = step


class NotReproducedError(RuntimeError):
    """The last step, recomputed, differs from training by more than rounding."""

    def __init__(self, difference: float) -> None:
        """``difference`` is relative to the last step's gradient, or to the step itself."""
        super().__init__(
            f"the last step of training, computed again, differs by {difference:.1g} of its size: "
            "the model or its code is not the one that was trained"
        )


class Trajectory(Protocol):
    """Read access to what training stored."""

    def plan_reads(self, reads: Sequence[Read]) -> None:
        """Announce what will be loaded, in order; replaces earlier announcements."""

    def load_state(self, step: int) -> TrainState:
        """The stored s_t."""

    def load_gradient(self, step: int) -> Gradient | None:
        """The stored g_t, or None if the schedule stores no gradients."""


class Replay:
    """Propagates the cotangents of a pass back through all steps of a trajectory."""

    def __init__(
        self,
        step: TrainStep,
        trajectory: Trajectory,
        batch_of: Callable[[int], Batch],
        schedule: CheckpointingSchedule,
        observer: Observer = null_observer,
        signals: Signals | None = None,
    ) -> None:
        """Prepare to replay.

        Args:
            step: the step function that trained.
            trajectory: what training stored.
            batch_of: the batch of step t.
            schedule: which states were stored and how to recompute the others.
            observer: receives ``rebuild_step``, ``replay_step`` and ``reproduced``. ``waited`` in
                the first two is the time spent reading the trajectory since the previous event.
            signals: records what the estimate of rounding needs.
        """
        self.signals = signals
        self.step = step
        self.trajectory = trajectory
        self.batch_of = batch_of
        self.schedule = schedule
        self.observer = observer
        self._waited = 0.0

    def run(
        self,
        cotangents: Sequence[Cotangent],
        take_scores: Callable[[int, Tensor], None],
        start: int | None = None,
    ) -> None:
        """Replay steps ``start`` - 1 … 0, from the cotangents at s_start to those at s_0.

        Args:
            cotangents: one per query; overwritten.
            take_scores: called with (t, scores) for every step when the cotangents are those at
                s_t; scores are (query, *shape of the batch's weights). If it raises, the replay
                stops between two steps.
            start: default the end of training, T.

        Raises:
            DivergedError: if a cotangent is not finite.
            NotReproducedError: if the model no longer gives the gradients of its training.
        """
        memory = _Memory()
        self.trajectory.plan_reads(list(self.schedule.reads(start)))
        for action in self.schedule.actions(start):
            if action.operation is Operation.LOAD:
                memory.working = self._loaded(self.trajectory.load_state, action.step)
            elif action.operation is Operation.RESTORE:
                memory.working = memory.states[action.step]
            elif action.operation is Operation.SNAPSHOT:
                memory.states[action.step] = memory.working
            elif action.operation is Operation.DISCARD:
                memory.discard(action.step)
            elif action.operation is Operation.ADVANCE:
                self._advance(memory)
            else:
                self._replay(memory, cotangents, take_scores)

    def _loaded(self, load: Callable[[int], Loaded], step: int) -> Loaded:
        began = time.perf_counter()
        value = load(step)
        self._waited += time.perf_counter() - began
        return value

    def _waited_since(self) -> float:
        """Seconds spent reading the trajectory since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited

    def _gradient(self, memory: "_Memory") -> Gradient:
        """g_t at the working state: from memory, from the trajectory, or recomputed."""
        step = memory.working.step
        grads = memory.gradients.get(step) or self._loaded(self.trajectory.load_gradient, step)
        if grads is None:
            _, grads = self.step.gradient(memory.working, self.batch_of(step))
            if step in memory.states:
                memory.gradients[step] = grads
        return grads

    def _advance(self, memory: "_Memory") -> None:
        began = time.perf_counter()
        step = memory.working.step
        memory.working = self.step.apply(memory.working, self._gradient(memory))
        self.observer(
            "rebuild_step",
            step=step,
            held=sorted(memory.states),
            seconds=time.perf_counter() - began,
            waited=self._waited_since(),
        )

    def _replay(
        self,
        memory: "_Memory",
        cotangents: Sequence[Cotangent],
        take_scores: Callable[[int, Tensor], None],
    ) -> None:
        began = time.perf_counter()
        state, grads = memory.working, self._gradient(memory)
        if state.step == self.schedule.steps - 1:
            self._check_reproduced(state, grads)
        if self.signals is not None:
            self.signals.before(cotangents)
        scores = self.step.vjp(state, grads, self.batch_of(state.step), cotangents)
        norms = [self.step.stage.norm(cotangent.params).item() for cotangent in cotangents]
        finite = all(map(math.isfinite, norms)) and bool(torch.isfinite(scores).all())
        if self.step.ranks.any(not finite):
            raise DivergedError("cotangent", state.step)
        if self.signals is not None:
            self.signals.after(state, cotangents, scores)
        self.observer(
            "replay_step",
            step=state.step,
            cotangent_norms=[
                norm for of_replica in self._of_replicas(norms) for norm in of_replica
            ],
            seconds=time.perf_counter() - began,
            waited=self._waited_since(),
        )
        take_scores(state.step, scores)

    def _check_reproduced(self, state: TrainState, grads: Gradient) -> None:
        """Recompute the last step and compare it with what training stored."""
        again = grads
        if self.schedule.keep_gradients:
            _, again = self.step.gradient(state, self.batch_of(state.step))
        rebuilt = self.step.apply(state, again)
        trained = self._loaded(self.trajectory.load_state, state.step + 1)
        leaves = (self.step.stage.state_tensors(s.optimizer) for s in (rebuilt, trained))
        exact = all(torch.equal(rebuilt.params[name], p) for name, p in trained.params.items())
        exact = exact and all(
            torch.equal(rebuilt.buffers[n], b) for n, b in trained.buffers.items()
        )
        again_leaves, kept_leaves = leaves
        exact = exact and all(torch.equal(again_leaves[n], t) for n, t in kept_leaves.items())
        exact = not self.step.ranks.any(not exact)
        eps = torch.finfo(next(iter(grads.params.values())).dtype).eps
        # Other hardware rounds differently; these bounds allow for that with a wide margin.
        if self.schedule.keep_gradients:
            difference = self._distance(again.params, grads.params) / self._norm(grads.params)
            bound = eps**0.5
        else:
            # Without stored gradients, compare the parameters. The optimizer may amplify rounding,
            # and the last step may have length 0.
            moved = self._distance(trained.params, state.params)
            moved += 100 * eps * self._norm(trained.params)
            difference, bound = self._distance(rebuilt.params, trained.params) / moved, 0.01
        if not difference <= bound:
            raise NotReproducedError(difference)
        self.observer("reproduced", exact=exact, difference=difference)

    def _of_replicas(self, norms: list[float]) -> list[list[float]]:
        """The norms of every replica: each replays different queries."""
        ranks = self.step.ranks
        return ranks.all_gather(norms)[:: ranks.shard_group.count]

    def _norm(self, tensors: Params) -> float:
        return max(self.step.stage.norm(tensors).item(), 1e-30)

    def _distance(self, some: Params, others: Params) -> float:
        between = {name: some[name] - other for name, other in others.items()}
        return self.step.stage.norm(between).item()


@dataclass
class _Memory:
    """The working state, the snapshots, and the gradients computed at snapshots."""

    working: TrainState = field(default_factory=lambda: TrainState(-1, {}, []))
    states: dict[int, TrainState] = field(default_factory=dict)
    gradients: dict[int, Gradient] = field(default_factory=dict)

    def discard(self, step: int) -> None:
        """Delete a snapshot and its gradient."""
        del self.states[step]
        self.gradients.pop(step, None)
