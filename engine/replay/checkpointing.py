"""Which train states to keep, and in what order to rebuild the others for replay.

Replay needs s_t for t = T-1 … 0. Training keeps the states of some steps; between two of
them the states are rebuilt forward from the earlier one, keeping at most ``live_states`` in
memory at a time. Within a segment the rebuilding follows the binomial schedule of Griewank and
Walther (Revolve, ACM TOMS 26(1), 2000), which advances the fewest steps possible for the
states it may hold: with s free places and each step advanced at most r times it covers
C(s + r, s) steps. REPLAY (arXiv 2503.13751) asks for such a schedule with logarithmic memory.

========= ================================ ============= =======================================
schedule  kept by training                 live states   rebuilt by
========= ================================ ============= =======================================
all       every s_t and every g_t          1             nothing
gradients every ⌈√T⌉-th s_t and every g_t  ⌈√T⌉          the optimizer alone, from the gradients
sqrt      every ⌈√T⌉-th s_t                ⌈√T⌉          training steps, each once
log       s_0                              ⌈log2 T⌉ + 1  training steps, a few times each
========= ================================ ============= =======================================

s_T is always kept as well: queries are measured there.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal

CheckpointingKind = Literal["all", "gradients", "sqrt", "log"]
Read = tuple[Literal["state", "gradient"], int]
"""Something of step t that a replay loads from the trajectory."""


class Operation(Enum):
    """One act of a replay on the working state; every act names a step t."""

    LOAD = "load"
    """The working state becomes s_t, read from the trajectory."""
    RESTORE = "restore"
    """The working state becomes s_t, held in memory."""
    SNAPSHOT = "snapshot"
    """Hold the working state s_t in memory."""
    DISCARD = "discard"
    """Let go of the s_t held in memory."""
    ADVANCE = "advance"
    """The working state s_t becomes s_{t+1}."""
    REPLAY = "replay"
    """Carry the cotangent from s_{t+1} to s_t, with s_t the working state."""


@dataclass(frozen=True)
class Action:
    """One act on step t."""

    operation: Operation
    step: int


@dataclass(frozen=True)
class CheckpointingSchedule:
    """What training keeps and how replay rebuilds the rest."""

    kind: CheckpointingKind
    steps: int
    checkpoints: tuple[int, ...]
    """Steps whose state training keeps, ascending from 0; s_T comes on top."""
    keep_gradients: bool
    """Whether training keeps every g_t."""
    live_states: int
    """Train states in memory at once, the working state included; without kept gradients each
    held state also remembers its gradient once that has been computed."""

    def actions(self, start: int | None = None) -> Iterator[Action]:
        """The actions that replay steps ``start`` - 1 … 0 (default: all), last step first."""
        end = self.steps if start is None else start
        for first in reversed([c for c in self.checkpoints if c < end]):
            yield Action(Operation.LOAD, first)
            yield from _reverse(first, end, self.live_states - 1)
            end = first

    def reads(self, start: int | None = None) -> Iterator[Read]:
        """What the replay of steps ``start`` - 1 … 0 loads, in this order.

        Whoever knows can have the next thing at hand before it is asked for.
        """
        for action in self.actions(start):
            if action.operation is Operation.LOAD:
                yield "state", action.step
            elif action.operation in (Operation.ADVANCE, Operation.REPLAY):
                if self.keep_gradients:
                    yield "gradient", action.step
                if action.operation is Operation.REPLAY and action.step == self.steps - 1:
                    # The last step is taken again and compared with where training ended.
                    yield "state", self.steps

    def reads_of_pass(self) -> list[Read]:
        """What measuring at s_T and a whole replay load."""
        return [("state", self.steps), *self.reads()]

    def advances(self) -> int:
        """How many steps replay advances again."""
        return sum(action.operation is Operation.ADVANCE for action in self.actions())


def checkpointing_schedule(kind: CheckpointingKind, steps: int) -> CheckpointingSchedule:
    """The schedule of a kind for a training of ``steps`` steps."""
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
    """Replay end-1 … first from the working state s_first with ``free`` places to hold states."""
    if end - first <= free + 1:
        yield from _reverse_all_held(first, end)
        return
    yield Action(Operation.SNAPSHOT, first)
    yield from _reverse_held(first, end, free)
    yield Action(Operation.DISCARD, first)


def _reverse_all_held(first: int, end: int) -> Iterator[Action]:
    """The same where every state on the way has a place."""
    for step in range(first, end - 1):
        yield Action(Operation.SNAPSHOT, step)
        yield Action(Operation.ADVANCE, step)
    yield Action(Operation.REPLAY, end - 1)
    for step in reversed(range(first, end - 1)):
        yield Action(Operation.RESTORE, step)
        yield Action(Operation.REPLAY, step)
        yield Action(Operation.DISCARD, step)


def _reverse_held(first: int, end: int, free: int) -> Iterator[Action]:
    """Replay end-1 … first with s_first held (it occupies one of ``free``) and working."""
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


def reach(places: int, repeats: int) -> int:
    """Steps replayed holding ``places`` states and advancing each at most ``repeats`` times."""
    return math.comb(places + repeats, places) if repeats >= 0 else 0


def split(length: int, places: int) -> int:
    """Where Revolve puts the next held state: steps from the first, for ``places`` ≥ 2.

    The choice keeps both parts within the repeats that the whole needs, so that the total
    number of advances is least.
    """
    repeats = 0
    while reach(places, repeats) < length:
        repeats += 1
    most = reach(places, repeats - 1)
    least_right = reach(places - 1, repeats - 1)
    return max(1, min(most, length - least_right))
