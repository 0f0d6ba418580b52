"""Which train states training stores, and in what order replay recomputes the others.

Replay needs s_t for t = T-1 … 0. Training stores the states of some steps. Replay recomputes the
states between two of them from the earlier one, with at most ``live_states`` in memory at a time.
Within such a segment it follows the binomial schedule of Griewank and Walther (Revolve, ACM TOMS
26(1), 2000), which advances the fewest steps possible for a given number of snapshots: with s
snapshots, and each step advanced at most r times, it covers C(s + r, s) steps. REPLAY (arXiv
2503.13751) uses such a schedule with logarithmic memory.

========= ================================ ============= =======================================
kind      stored by training               live states   recomputed by
========= ================================ ============= =======================================
all       every s_t and every g_t          1             nothing
gradients every ⌈√T⌉-th s_t and every g_t  ⌈√T⌉          the optimizer alone, from the gradients
sqrt      every ⌈√T⌉-th s_t                ⌈√T⌉          training steps, each once
log       s_0                              ⌈log2 T⌉ + 1  training steps, a few times each
========= ================================ ============= =======================================

s_T is always stored too: measurements are taken there.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal

CheckpointingKind = Literal["all", "gradients", "sqrt", "log"]
Read = tuple[Literal["state", "gradient"], int]
"""A state or gradient that replay loads from the trajectory, and its step."""


class Operation(Enum):
    """An operation of a replay on the working state, at a step t."""

    LOAD = "load"
    """The working state becomes s_t, read from the trajectory."""
    RESTORE = "restore"
    """The working state becomes the snapshot s_t."""
    SNAPSHOT = "snapshot"
    """Keep the working state s_t in memory as a snapshot."""
    DISCARD = "discard"
    """Delete the snapshot s_t."""
    ADVANCE = "advance"
    """The working state s_t becomes s_{t+1}."""
    REPLAY = "replay"
    """Propagate the cotangent from s_{t+1} to s_t; the working state is s_t."""


@dataclass(frozen=True)
class Action:
    """One operation at step t."""

    operation: Operation
    step: int


@dataclass(frozen=True)
class CheckpointingSchedule:
    """What training stores, and how replay recomputes the rest."""

    kind: CheckpointingKind
    steps: int
    checkpoints: tuple[int, ...]
    """Steps whose state training stores, ascending from 0; s_T is stored in addition."""
    keep_gradients: bool
    """Whether training stores every g_t."""
    live_states: int
    """Train states in memory at once, the working state included. If gradients are not stored, each
    snapshot also keeps its gradient once it is computed."""

    def actions(self, start: int | None = None) -> Iterator[Action]:
        """The actions of replaying steps ``start`` - 1 … 0 (default: all), last step first."""
        end = self.steps if start is None else start
        for first in reversed([c for c in self.checkpoints if c < end]):
            yield Action(Operation.LOAD, first)
            yield from _reverse(first, end, self.live_states - 1)
            end = first

    def reads(self, start: int | None = None) -> Iterator[Read]:
        """What the replay of steps ``start`` - 1 … 0 loads, in this order.

        A reader uses it to read ahead.
        """
        for action in self.actions(start):
            if action.operation is Operation.LOAD:
                yield "state", action.step
            elif action.operation in (Operation.ADVANCE, Operation.REPLAY):
                if self.keep_gradients:
                    yield "gradient", action.step
                if action.operation is Operation.REPLAY and action.step == self.steps - 1:
                    # The last step is recomputed and compared with the final state.
                    yield "state", self.steps

    def reads_of_pass(self) -> list[Read]:
        """What a whole pass loads: measuring at s_T, then replay."""
        return [("state", self.steps), *self.reads()]

    def advances(self) -> int:
        """The number of steps that replay advances."""
        return sum(action.operation is Operation.ADVANCE for action in self.actions())


def checkpointing_schedule(kind: CheckpointingKind, steps: int) -> CheckpointingSchedule:
    """The schedule of a kind for a training of ``steps`` steps.

    Raises:
        ValueError: if there are no steps.
    """
    if steps < 1:
        raise ValueError(f"a schedule needs at least one step, not {steps}")
    root = math.isqrt(steps - 1) + 1
    if kind == "all":
        return CheckpointingSchedule(kind, steps, tuple(range(steps)), True, 1)
    if kind == "gradients":
        return CheckpointingSchedule(kind, steps, tuple(range(0, steps, root)), True, root)
    if kind == "sqrt":
        return CheckpointingSchedule(kind, steps, tuple(range(0, steps, root)), False, root)
    return CheckpointingSchedule(kind, steps, (0,), False, (steps - 1).bit_length() + 1)


def _reverse(first: int, end: int, free: int) -> Iterator[Action]:
    """Replay end-1 … first from the working state s_first, with up to ``free`` snapshots."""
    if end - first <= free + 1:
        yield from _reverse_all_snapshots(first, end)
        return
    yield Action(Operation.SNAPSHOT, first)
    yield from _reverse_from_snapshot(first, end, free)
    yield Action(Operation.DISCARD, first)


def _reverse_all_snapshots(first: int, end: int) -> Iterator[Action]:
    """As :func:`_reverse`, where every state of the segment can be a snapshot."""
    for step in range(first, end - 1):
        yield Action(Operation.SNAPSHOT, step)
        yield Action(Operation.ADVANCE, step)
    yield Action(Operation.REPLAY, end - 1)
    for step in reversed(range(first, end - 1)):
        yield Action(Operation.RESTORE, step)
        yield Action(Operation.REPLAY, step)
        yield Action(Operation.DISCARD, step)


def _reverse_from_snapshot(first: int, end: int, free: int) -> Iterator[Action]:
    """As :func:`_reverse`, where s_first is a snapshot already, one of the ``free``."""
    while end - first > 1:
        if free <= 1:
            yield from (Action(Operation.ADVANCE, step) for step in range(first, end - 1))
            yield Action(Operation.REPLAY, end - 1)
            end -= 1
        else:
            middle = first + split(end - first, free)
            yield from (Action(Operation.ADVANCE, step) for step in range(first, middle))
            yield from _reverse(middle, end, free - 1)
            end = middle
        yield Action(Operation.RESTORE, first)
    yield Action(Operation.REPLAY, first)


def reach(snapshots: int, repeats: int) -> int:
    """Steps that ``snapshots`` can replay with each step advanced at most ``repeats`` times."""
    return math.comb(snapshots + repeats, snapshots) if repeats >= 0 else 0


def split(length: int, snapshots: int) -> int:
    """Where Revolve takes the next snapshot: steps from the first, for ``snapshots`` ≥ 2.

    Both parts then need no more repeats than the whole, so the total number of advances is least.
    """
    repeats = 0
    while reach(snapshots, repeats) < length:
        repeats += 1
    most = reach(snapshots, repeats - 1)
    least_right = reach(snapshots - 1, repeats - 1)
    return max(1, min(most, length - least_right))
