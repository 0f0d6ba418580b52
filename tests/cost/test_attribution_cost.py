"""The cost of more queries is computed from measurements of the run."""

import json
from dataclasses import replace

import pytest

from engine.cost.attribution_cost import RunCosts, TimedPass, attribution_cost, read_costs
from engine.cost.checkpointing_choice import estimate
from engine.cost.measured import FreeSpace
from engine.cost.peak_memory import Footprint
from engine.cost.query_passes import PassLimits, ReplayMemory
from tests.cost.test_checkpointing_choice import FIXED

MEMORY = ReplayMemory(1000, 3000, 40, 2000, 0, all_directions=True)
FOOTPRINT = Footprint(False, 10**8, 10**8, 10**8, 5_000_000, 9_000_000)
COSTS = RunCosts(
    FIXED, PassLimits(MEMORY, 1e6, 4, 1, 1, False, 0.5), FOOTPRINT, cache_bytes=100, score_bytes=70
)
UNTIMED = replace(COSTS, training=replace(FIXED, seconds=None), footprint=None)
TWO = TimedPass(queries=2, step_seconds=0.2, rebuild_seconds=1.5, memory=50_000)


def test_costs_survive_the_record() -> None:
    for costs in (COSTS, UNTIMED):
        assert read_costs(json.loads(json.dumps({"costs": costs.record()}))) == costs
    assert read_costs({}) is None and read_costs({"costs": {"steps": 3}}) is None


def test_before_a_replay_the_timed_steps_decide() -> None:
    cost = attribution_cost(COSTS, "sqrt", 6, [])
    passes = COSTS.limits.passes(6, "sqrt")
    assert (cost.passes, passes.per_pass, cost.basis) == (2, 3, "steps")
    assert cost.seconds == estimate("sqrt", FIXED, passes, FreeSpace(0, 0)).replay_seconds
    option = estimate("sqrt", FIXED, passes, FreeSpace(0, 0))
    replay_only = FOOTPRINT.peak(option, FIXED, MEMORY, 3, 100, trains=False).device
    assert cost.memory == replay_only
    assert (cost.disk, attribution_cost(COSTS, "sqrt", 6, [], 5).disk) == (420, 30)


def test_what_was_not_measured_is_unknown() -> None:
    cost = attribution_cost(UNTIMED, "all", 2, [])
    assert (cost.seconds, cost.basis, cost.memory) == (None, None, None)
    assert (cost.passes, cost.disk) == (1, 140)


def test_a_replay_corrects_the_timed_steps() -> None:
    assert FIXED.seconds is not None
    step, query = FIXED.seconds.step, FIXED.seconds.query
    two, four = (attribution_cost(COSTS, "all", count, [TWO]) for count in (2, 4))
    assert two.seconds == pytest.approx(37 * 0.2 + 1.5 + 2 * query)
    scaled = 0.2 * step.replay(4) / step.replay(2)
    assert four.seconds == pytest.approx(37 * scaled + 1.5 + 4 * query)
    assert two.basis == four.basis == "replays"
    assert two.memory == 50_000 and four.memory == 50_000 + 2 * (3000 + 40 + 1000)


def test_replays_without_timed_steps() -> None:
    same, fewer, more = (attribution_cost(UNTIMED, "all", count, [TWO]) for count in (2, 1, 4))
    assert (same.seconds, same.basis) == (pytest.approx(37 * 0.2 + 1.5), "replays")
    # A step of n queries takes a + b·n: with b = 0 or a = 0 these are reached.
    assert (fewer.seconds, fewer.basis) == (same.seconds, "upper bound")
    assert (more.seconds, more.basis) == (pytest.approx(37 * 0.4 + 1.5), "upper bound")
    four = TimedPass(4, 0.3, 1.5, 60_000)
    three = attribution_cost(UNTIMED, "all", 3, [TWO, four])
    assert (three.seconds, three.basis) == (pytest.approx(37 * 0.25 + 1.5), "replays")


def test_several_passes_add_up() -> None:
    cost = attribution_cost(UNTIMED, "all", 8, [TimedPass(4, 0.3, 1.5, 0)])
    assert (cost.passes, cost.seconds) == (2, pytest.approx(2 * (37 * 0.3 + 1.5)))
