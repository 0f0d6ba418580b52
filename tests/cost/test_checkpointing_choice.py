"""What every kind of checkpointing costs, what `auto` chooses, and its error if nothing fits."""

from dataclasses import replace

import pytest

from engine.cost.checkpointing_choice import (
    FEW_STEPS,
    KINDS,
    Estimate,
    choose,
    estimate,
    measures_times,
)
from engine.cost.measured import (
    DiskSeconds,
    FreeSpace,
    MeasuredSeconds,
    StepSeconds,
    TrainingCosts,
)
from engine.cost.peak_memory import Footprint, PeakMemory
from engine.cost.query_passes import QueryPasses, ReplayMemory
from engine.replay.checkpointing import CheckpointingKind

STEP = StepSeconds(
    gradient=0.95, update=0.05, graph=1.3, query=2.0, optimizer=0.1, optimizer_query=0.1
)
DISK = DiskSeconds(byte=1e-9, byte_work=0.0, read_byte=5e-10, file=1e-3)
COSTS = TrainingCosts(
    steps=100,
    state_bytes=3_000_000,
    gradient_bytes=1_000_000,
    writers=1,
    seconds=MeasuredSeconds(STEP, DISK, query=0.0),
)
PLENTY = FreeSpace(disk=10**12, memory=10**12)
ONE_QUERY = dict.fromkeys(KINDS, QueryPasses())


def of_kind(kind: CheckpointingKind, costs: TrainingCosts = COSTS) -> Estimate:
    return estimate(kind, costs, QueryPasses(), PLENTY)


def chosen(costs: TrainingCosts, free: FreeSpace) -> tuple[str, str]:
    best, reason = choose(costs, ONE_QUERY, free)
    return best.schedule.kind, reason


def test_auto_takes_the_least_disk_among_the_fast() -> None:
    # `all` is a little faster than `gradients`, and takes three times the disk.
    every, gradients = of_kind("all"), of_kind("gradients")
    assert every.seconds < gradients.seconds < 1.05 * every.seconds
    kind, reason = chosen(COSTS, PLENTY)
    assert kind == "gradients" and "all takes" in reason


def test_auto_takes_what_the_disk_allows() -> None:
    kinds = [chosen(COSTS, replace(PLENTY, disk=disk))[0] for disk in (10**8, 10**7)]
    assert kinds == ["sqrt", "log"]


def test_auto_takes_what_the_memory_allows() -> None:
    kind, reason = chosen(COSTS, replace(PLENTY, memory=2 * 4 * COSTS.state_bytes))
    assert kind == "all" and "of memory" in reason


def test_few_steps_are_not_timed() -> None:
    few = replace(COSTS, steps=FEW_STEPS, seconds=None)
    assert not measures_times("auto", few.steps) and not measures_times("log", 100)
    assert chosen(few, PLENTY)[0] == "gradients"
    kind, reason = chosen(few, replace(PLENTY, disk=14 * 10**6))
    assert kind == "log" and "gradients needs" in reason and "time" not in reason
    assert of_kind("all", few).train_seconds is None and of_kind("all", few).replay_seconds is None
    slow_update = MeasuredSeconds(replace(STEP, update=100.0), DISK, 0.0)
    longer = replace(few, steps=FEW_STEPS + 1, seconds=slow_update)
    assert measures_times("auto", longer.steps)
    assert chosen(longer, PLENTY)[0] == "all"


def test_nothing_fits() -> None:
    best, reason = choose(COSTS, ONE_QUERY, FreeSpace(disk=10**6, memory=10**12))
    assert best.shortfall is not None and reason.startswith("nothing fits: log needs")


def test_disk_is_counted_exactly() -> None:
    states, gradients = 3_000_000, 1_000_000
    assert {kind: of_kind(kind).disk_bytes for kind in KINDS} == {
        "all": 101 * states + 100 * gradients,
        "gradients": 11 * states + 100 * gradients,
        "sqrt": 11 * states,
        "log": 2 * states,
    }
    shared = of_kind("all", replace(COSTS, writers=3))
    assert shared.disk_bytes == 3 * of_kind("all").disk_bytes
    assert shared.held_bytes == of_kind("all").held_bytes


def test_writing_overlaps_with_computing() -> None:
    def seconds(**disk: float) -> float:
        measured = DiskSeconds(**{"byte": 0, "byte_work": 0, "read_byte": 0, "file": 0, **disk})
        train = of_kind("all", replace(COSTS, seconds=MeasuredSeconds(STEP, measured, 0.0)))
        assert train.train_seconds is not None
        return train.train_seconds

    size = of_kind("all").disk_bytes
    assert seconds() == pytest.approx(100)
    # Writing takes half as long as computing: only the last state adds to the time.
    assert seconds(byte=50 / size) == pytest.approx(100 + 50 * COSTS.state_bytes / size)
    assert seconds(byte=200 / size) == pytest.approx(200)
    assert seconds(byte_work=10 / size) == pytest.approx(110)


def test_the_queries_of_a_pass_share_the_graph() -> None:
    step = StepSeconds(gradient=1, update=0, graph=2, query=3, optimizer=0, optimizer_query=0)
    seconds = MeasuredSeconds(step, DiskSeconds(0, 0, 0, 0), query=0.5)

    def replay(passes: int, per_replica: int) -> float | None:
        split = QueryPasses(passes * per_replica, passes, per_replica, per_replica)
        return estimate("all", replace(COSTS, seconds=seconds), split, PLENTY).replay_seconds

    # Every pass repeats the last training step; evaluating a query takes 0.5 s.
    assert (replay(1, 1), replay(1, 4), replay(2, 2)) == (501.5, 1403, 1604)


FIXED = TrainingCosts(
    steps=37,
    state_bytes=3_100_007,
    gradient_bytes=1_000_003,
    writers=2,
    seconds=MeasuredSeconds(
        StepSeconds(0.31, 0.023, 0.42, 0.57, 0.011, 0.017),
        DiskSeconds(2.5e-9, 4e-10, 7e-10, 2e-3),
        query=1.25 / 6,
    ),
)
FIXED_PASSES: dict[CheckpointingKind, QueryPasses] = {
    "gradients": QueryPasses(6, 3, 2, 2),
    "all": QueryPasses(6, 3, 2, 2),
    "sqrt": QueryPasses(6, 1, 6, 6),
    "log": QueryPasses(6, 1, 6, 6),
}


@pytest.mark.parametrize(
    ("kind", "disk", "train", "replay", "cpu", "gpu"),
    [
        ("gradients", 117400320, 12.3542300815, 182.5473400098, 249180077, 239700049),
        ("all", 309600754, 12.3926701683, 180.4083400098, 230700049, 230000000),
        ("sqrt", 43400098, 12.3394300371, 159.7213400098, 268340098, 262700070),
        ("log", 12400028, 12.3332300231, 172.8233400098, 268340098, 262700070),
    ],
)
def test_predictions_of_fixed_measurements(
    kind: CheckpointingKind, disk: int, train: float, replay: float, cpu: int, gpu: int
) -> None:
    """These values fix the model's formulas: changing them must be intended."""
    passes = FIXED_PASSES[kind]
    option = estimate(kind, FIXED, passes, PLENTY)
    assert option.disk_bytes == disk
    assert option.train_seconds == pytest.approx(train, rel=1e-11)
    assert option.replay_seconds == pytest.approx(replay, rel=1e-11)
    memory = ReplayMemory(1_000_000, 3_000_000, 40_000, 2_000_000, 0, all_directions=True)
    host = 220440014 if kind in ("sqrt", "log") else 220280014
    for is_gpu, peak in ((False, PeakMemory(cpu, None)), (True, PeakMemory(gpu, host))):
        footprint = Footprint(is_gpu, 200_000_000, 210_000_000, 230_000_000, 5_000_000, 9_000_000)
        assert footprint.peak(option, FIXED, memory, passes.per_replica, 4_000_000) == peak
