"""Schedules rebuild states in the stated order, within the stated memory, with fewest advances."""

from collections import deque
from functools import cache
from typing import get_args

import pytest

from engine.replay.checkpointing import (
    Action,
    CheckpointingKind,
    CheckpointingSchedule,
    Operation,
    _reverse,
    checkpointing_schedule,
    reach,
    split,
)

KINDS = get_args(CheckpointingKind)
LETTERS = {
    Operation.LOAD: "L",
    Operation.RESTORE: "C",
    Operation.SNAPSHOT: "H",
    Operation.DISCARD: "D",
    Operation.ADVANCE: "A",
    Operation.REPLAY: "R",
}
LONGEST, MOST_PLACES = 60, 6

# L load, H hold, A advance, R replay, C recall, D drop.
ORDERS: dict[tuple[CheckpointingKind, int], str] = {
    ("all", 1): "L0 R0",
    ("gradients", 1): "L0 R0",
    ("sqrt", 1): "L0 R0",
    ("log", 1): "L0 R0",
    ("all", 2): "L1 R1 L0 R0",
    ("gradients", 2): "L0 H0 A0 R1 C0 R0 D0",
    ("sqrt", 2): "L0 H0 A0 R1 C0 R0 D0",
    ("log", 2): "L0 H0 A0 R1 C0 R0 D0",
    ("all", 5): "L4 R4 L3 R3 L2 R2 L1 R1 L0 R0",
    ("gradients", 5): "L3 H3 A3 R4 C3 R3 D3  L0 H0 A0 H1 A1 R2 C1 R1 D1 C0 R0 D0",
    ("sqrt", 5): "L3 H3 A3 R4 C3 R3 D3  L0 H0 A0 H1 A1 R2 C1 R1 D1 C0 R0 D0",
    ("log", 5): "L0 H0 A0 A1 H2 A2 H3 A3 R4 C3 R3 D3 C2 R2 D2 C0 A0 R1 C0 R0 D0",
    ("all", 10): "L9 R9 L8 R8 L7 R7 L6 R6 L5 R5 L4 R4 L3 R3 L2 R2 L1 R1 L0 R0",
    ("sqrt", 10): (
        "L8 H8 A8 R9 C8 R8 D8  "
        "L4 H4 A4 H5 A5 H6 A6 R7 C6 R6 D6 C5 R5 D5 C4 R4 D4  "
        "L0 H0 A0 H1 A1 H2 A2 R3 C2 R2 D2 C1 R1 D1 C0 R0 D0"
    ),
    ("gradients", 10): (
        "L8 H8 A8 R9 C8 R8 D8  "
        "L4 H4 A4 H5 A5 H6 A6 R7 C6 R6 D6 C5 R5 D5 C4 R4 D4  "
        "L0 H0 A0 H1 A1 H2 A2 R3 C2 R2 D2 C1 R1 D1 C0 R0 D0"
    ),
    ("log", 10): (
        "L0 H0 A0 A1 A2 A3 A4 H5 A5 A6 H7 A7 H8 A8 R9 C8 R8 D8 C7 R7 D7 C5 A5 R6 C5 R5 D5 "
        "C0 A0 H1 A1 H2 A2 H3 A3 R4 C3 R3 D3 C2 R2 D2 C1 R1 D1 C0 R0 D0"
    ),
}


def follow(schedule: CheckpointingSchedule, actions: list[Action]) -> tuple[list[int], int]:
    """Carry out actions on step numbers: the steps replayed, and the most states alive at once."""
    working, held, replayed, most = -1, set[int](), [], 0
    for action in actions:
        if action.operation is Operation.LOAD:
            assert action.step in schedule.checkpoints and not held
            working = action.step
        elif action.operation is Operation.SNAPSHOT:
            assert action.step == working and action.step not in held
            held.add(working)
        elif action.operation is Operation.RESTORE:
            assert action.step in held
            working = action.step
        elif action.operation is Operation.DISCARD:
            held.remove(action.step)
        elif action.operation is Operation.ADVANCE:
            assert action.step == working
            working += 1
        else:
            assert action.step == working
            replayed.append(working)
        most = max(most, len(held | {working}))
    assert not held
    return replayed, most


@pytest.mark.parametrize(("kind", "steps"), ORDERS)
def test_order_of_acts(kind: CheckpointingKind, steps: int) -> None:
    actions = [
        f"{LETTERS[action.operation]}{action.step}"
        for action in checkpointing_schedule(kind, steps).actions()
    ]
    assert actions == ORDERS[kind, steps].split()


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_is_replayed_once_from_the_last_within_the_promised_states(
    kind: CheckpointingKind,
) -> None:
    for steps in range(1, LONGEST + 1):
        schedule = checkpointing_schedule(kind, steps)
        replayed, most = follow(schedule, list(schedule.actions()))
        assert replayed == list(range(steps))[::-1]
        assert most <= schedule.live_states


def test_promised_states_and_checkpoints() -> None:
    table = {
        (kind, steps): checkpointing_schedule(kind, steps)
        for kind in KINDS
        for steps in (1, 9, 10, 60)
    }
    live = {key: schedule.live_states for key, schedule in table.items()}
    assert [live["all", n] for n in (1, 9, 10, 60)] == [1, 1, 1, 1]
    assert [live["gradients", n] for n in (1, 9, 10, 60)] == [1, 3, 4, 8]
    assert [live["sqrt", n] for n in (1, 9, 10, 60)] == [1, 3, 4, 8]
    assert [live["log", n] for n in (1, 9, 10, 60)] == [1, 5, 5, 7]
    assert table["sqrt", 10].checkpoints == table["gradients", 10].checkpoints == (0, 4, 8)
    assert table["log", 60].checkpoints == (0,)
    assert table["all", 9].checkpoints == tuple(range(9))
    assert [kind for kind in KINDS if table[kind, 9].keep_gradients] == ["all", "gradients"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_replay_may_begin_at_any_step(kind: CheckpointingKind) -> None:
    for steps in (1, 2, 7, 10, 23):
        schedule = checkpointing_schedule(kind, steps)
        for start in range(steps + 1):
            replayed, most = follow(schedule, list(schedule.actions(start)))
            assert replayed == list(range(start))[::-1]
            assert most <= schedule.live_states


@cache
def fewest_advances(length: int, places: int) -> int:
    """The optimum by trying every place for the next held state."""
    if length == 1:
        return 0
    if places == 1:
        return length * (length - 1) // 2
    return min(
        middle + fewest_advances(length - middle, places - 1) + fewest_advances(middle, places)
        for middle in range(1, length)
    )


@pytest.mark.parametrize("places", range(1, MOST_PLACES + 1))
def test_binomial_splits_advance_least(places: int) -> None:
    for length in range(1, LONGEST + 1):
        actions = list(_reverse(0, length, places))
        advances = sum(action.operation is Operation.ADVANCE for action in actions)
        assert advances == fewest_advances(length, places)
        held = most = 0
        for action in actions:
            held += (action.operation is Operation.SNAPSHOT) - (
                action.operation is Operation.DISCARD
            )
            most = max(most, held)
        assert most <= places


@pytest.mark.parametrize("places", range(2, MOST_PLACES + 1))
def test_no_step_is_advanced_more_often_than_its_length_needs(places: int) -> None:
    for length in range(2, LONGEST + 1):
        actions = [
            action.step
            for action in _reverse(0, length, places)
            if action.operation is Operation.ADVANCE
        ]
        repeats = max(map(actions.count, actions))
        assert reach(places, repeats - 1) < length <= reach(places, repeats)
        assert 1 <= split(length, places) < length


def test_advances_of_whole_schedules() -> None:
    assert [checkpointing_schedule("all", n).advances() for n in (1, 10, 60)] == [0, 0, 0]
    # Segments of ⌈√T⌉ steps advance all but their last.
    assert [checkpointing_schedule("sqrt", n).advances() for n in (1, 10, 60)] == [0, 7, 52]
    log = [checkpointing_schedule("log", n).advances() for n in (1, 10, 60)]
    assert log == [0, fewest_advances(10, 4), fewest_advances(60, 6)]


def test_trainings_of_very_many_steps() -> None:
    for kind in KINDS:
        last = deque(checkpointing_schedule(kind, 10**6).actions(1001), maxlen=1)
        assert last[0].step == 0


def test_no_schedule_for_no_steps() -> None:
    with pytest.raises(ValueError, match="at least one step, not 0"):
        checkpointing_schedule("log", 0)
