"""What `auto` chooses, and what it says when nothing fits."""

from dataclasses import replace

import pytest

from engine.cost.checkpointing_choice import (
    FEW_STEPS,
    Asked,
    Costs,
    DiskSeconds,
    Room,
    StepSeconds,
    choose,
    estimate,
    wants_times,
)

COSTS = Costs(
    steps=100, state_bytes=3_000_000, gradient_bytes=1_000_000, writers=1,
    step=StepSeconds(gradient=0.95, update=0.05), disk=DiskSeconds(), asked=Asked(),
)  # fmt: skip
PLENTY = Room(disk=10**12, memory=10**12)


def test_least_disk_among_the_quick() -> None:
    # `all` is a little quicker than `gradients`, and takes three times the disk.
    every, gradients = (estimate(kind, COSTS, PLENTY) for kind in ("all", "gradients"))
    assert every.seconds < gradients.seconds < 1.05 * every.seconds
    best, reason = choose(COSTS, PLENTY)
    assert best.schedule.kind == "gradients" and "all takes" in reason


def test_what_the_disk_allows() -> None:
    kinds = [choose(COSTS, replace(PLENTY, disk=d))[0].schedule.kind for d in (10**8, 10**7)]
    assert kinds == ["sqrt", "log"]


def test_what_memory_allows() -> None:
    tight = replace(PLENTY, memory=2 * 4 * COSTS.state_bytes)
    best, reason = choose(COSTS, tight)
    assert best.schedule.kind == "all" and "of memory" in reason


def test_few_steps_are_not_measured() -> None:
    few = replace(COSTS, steps=FEW_STEPS, step=StepSeconds(update=100.0))
    assert not wants_times("auto", few.steps) and not wants_times("log", 100)
    assert choose(few, PLENTY)[0].schedule.kind == "gradients"
    # Whatever the times say, unless it does not fit; then nothing is said of times.
    best, reason = choose(few, replace(PLENTY, disk=14 * 10**6))
    assert best.schedule.kind == "log" and "gradients needs" in reason and "time" not in reason
    longer = replace(few, steps=FEW_STEPS + 1)
    assert wants_times("auto", longer.steps)
    assert choose(longer, PLENTY)[0].schedule.kind == "all"


def test_nothing_fits() -> None:
    best, reason = choose(COSTS, Room(disk=10**6, memory=10**12))
    assert best.why_not is not None and reason.startswith("nothing fits: log needs")


def test_disk_counted_exactly() -> None:
    states, gradients = 3_000_000, 1_000_000
    disk = {k: estimate(k, COSTS, PLENTY).disk_bytes for k in ("all", "gradients", "sqrt", "log")}
    assert disk == {
        "all": 101 * states + 100 * gradients,
        "gradients": 11 * states + 100 * gradients,
        "sqrt": 11 * states,
        "log": 2 * states,
    }


def test_writing_goes_on_beside_computing() -> None:
    def seconds(**disk: float) -> float:
        costs = replace(COSTS, disk=replace(DiskSeconds(byte=0, file=0, read_byte=0), **disk))
        return estimate("all", costs, PLENTY).train_seconds

    size = estimate("all", COSTS, PLENTY).disk_bytes
    assert seconds() == pytest.approx(100)
    # Half as long as computing: only the last state is waited for.
    assert seconds(byte=50 / size) == pytest.approx(100 + 50 * COSTS.state_bytes / size)
    assert seconds(byte=200 / size) == pytest.approx(200)
    assert seconds(byte_work=10 / size) == pytest.approx(110)


def test_every_pass_shares_one_graph() -> None:
    step = StepSeconds(gradient=1, update=0, graph=2, query=3, stage=0, stage_query=0)
    costs = replace(COSTS, step=step, disk=DiskSeconds(0, 0, 0, 0))
    found = {
        (passes, each): estimate(
            "all", replace(costs, asked=Asked(passes, each)), PLENTY
        ).replay_seconds
        for passes, each in ((1, 1), (1, 4), (2, 2))
    }
    # The last step is taken again in every pass.
    assert found == {(1, 1): 501, (1, 4): 1401, (2, 2): 1602}


def test_several_ranks_fill_one_disk() -> None:
    whole, shared = (estimate("all", replace(COSTS, writers=w), PLENTY) for w in (1, 3))
    assert shared.disk_bytes == 3 * whole.disk_bytes and shared.held_bytes == whole.held_bytes
