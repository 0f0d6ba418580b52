"""What `auto` chooses, and what it says when nothing fits."""

from dataclasses import replace

from engine.checkpoints.planner import Costs, Room, choose, estimate

COSTS = Costs(
    steps=100, state_bytes=3_000_000, gradient_bytes=1_000_000, step_seconds=1.0,
    update_seconds=0.05, bytes_per_second=1e9, file_seconds=1e-3, queries=1, passes=1,
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


def test_reading_goes_on_beside_computing() -> None:
    speeds = (1e12, 1e9, 1e4)
    free, quick, slow = (
        estimate("all", replace(COSTS, bytes_per_second=speed), PLENTY).replay_seconds
        for speed in speeds
    )
    assert quick == free and slow > 10 * quick
