"""What attributing more queries to a finished run costs, from what the run measured.

A run records its measurements in ``prepared.json`` under "costs" before it trains; its journal
records how long replayed steps took. This module imports no torch, so that the dashboard can use
it. Nothing is guessed: what was not measured is None.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from engine.cost.checkpointing_choice import estimate
from engine.cost.measured import FreeSpace, TrainingCosts, fit_line
from engine.cost.peak_memory import Footprint
from engine.cost.query_passes import PassLimits, QueryPasses
from engine.replay.checkpointing import CheckpointingKind


@dataclass(frozen=True)
class RunCosts:
    """What a run measured before it trained."""

    training: TrainingCosts
    limits: PassLimits
    footprint: Footprint | None
    """None if it was not measured."""
    cache_bytes: int
    """Budget of the host cache."""
    score_bytes: int
    """One query's scores on disk, before compression."""

    def record(self) -> dict[str, Any]:
        """The costs as JSON values."""
        return asdict(self)


def read_costs(prepared: dict[str, Any]) -> RunCosts | None:
    """The costs in a run's ``prepared.json``; None if it has none that can be read."""
    try:
        return TypeAdapter(RunCosts).validate_python(prepared["costs"])
    except (KeyError, ValidationError):
        return None


@dataclass(frozen=True)
class TimedPass:
    """A replay of this run."""

    queries: int
    """Queries of the pass, over all replicas."""
    step_seconds: float
    """Median seconds of a replayed step."""
    rebuild_seconds: float
    """Seconds of rebuilding train states in the whole pass."""
    memory: int
    """Peak bytes of the process or device."""


Basis = Literal["replays", "steps", "upper bound"]


@dataclass(frozen=True)
class AttributionCost:
    """The predicted cost of attributing some queries."""

    queries: int
    passes: int | None = None
    seconds: float | None = None
    """None if neither a replay nor the steps were timed."""
    basis: Basis | None = None
    """What the seconds follow from: this run's timed replays, or the steps timed before training.
    "upper bound": only replays with another number of queries were timed, and the replay takes at
    most this long."""
    memory: int | None = None
    """Peak bytes; None if it was not measured."""
    disk: int | None = None


def attribution_cost(
    costs: RunCosts,
    kind: CheckpointingKind,
    queries: int,
    timed: Sequence[TimedPass],
    disk_per_query: int | None = None,
) -> AttributionCost:
    """Predict the cost of attributing ``queries`` queries.

    Args:
        costs: what the run measured.
        kind: its checkpointing.
        queries: number of queries.
        timed: the run's replays so far, latest last.
        disk_per_query: bytes of one query's compressed scores, if that was measured; otherwise
            their size before compression is used.
    """
    passes = costs.limits.passes(queries, kind)
    seconds, basis = _seconds(costs, kind, passes, timed)
    return AttributionCost(
        queries,
        passes.passes,
        seconds,
        basis,
        _memory(costs, kind, passes, timed),
        queries * (costs.score_bytes if disk_per_query is None else disk_per_query),
    )


def _seconds(
    costs: RunCosts, kind: CheckpointingKind, passes: QueryPasses, timed: Sequence[TimedPass]
) -> tuple[float | None, Basis | None]:
    if not timed:
        option = estimate(kind, costs.training, passes, FreeSpace(0, 0))
        return option.replay_seconds, None if option.replay_seconds is None else "steps"
    step, is_bound = _step_seconds(costs, passes.per_replica, timed)
    # The latest pass may still be running, and its states not be rebuilt yet.
    rebuild = max(each.rebuild_seconds for each in timed)
    seconds = passes.passes * (costs.training.steps * step + rebuild)
    if costs.training.seconds is not None:
        seconds += passes.queries * costs.training.seconds.query
    return seconds, "upper bound" if is_bound else "replays"


def _step_seconds(costs: RunCosts, queries: int, timed: Sequence[TimedPass]) -> tuple[float, bool]:
    """Seconds of a replayed step of ``queries`` queries, and whether that is an upper bound.

    A replayed step of n queries takes a + b·n seconds with a, b ≥ 0. The line follows from the
    steps timed before training, scaled to the latest replay; or from replays of different sizes. A
    single size n' bounds it: at most max(1, n/n') times as long.
    """
    sizes = [_per_replica(costs, each) for each in timed]
    latest, size = timed[-1].step_seconds, sizes[-1]
    if queries == size:
        return latest, False
    if costs.training.seconds is not None:
        step = costs.training.seconds.step
        return latest * step.replay(queries) / step.replay(size), False
    if len(set(sizes)) > 1:
        return fit_line(sizes, [each.step_seconds for each in timed]).at(queries), False
    return latest * max(1.0, queries / size), True


def _memory(
    costs: RunCosts, kind: CheckpointingKind, passes: QueryPasses, timed: Sequence[TimedPass]
) -> int | None:
    memory, queries = costs.limits.memory, passes.per_replica
    if timed:
        largest = max(timed, key=lambda each: each.memory)
        before = memory.queries(_per_replica(costs, largest))
        return max(0, largest.memory + memory.queries(queries) - before)
    if costs.footprint is None:
        return None
    option = estimate(kind, costs.training, passes, FreeSpace(0, 0))
    peak = costs.footprint.peak(
        option, costs.training, memory, queries, costs.cache_bytes, trains=False
    )
    return peak.device


def _per_replica(costs: RunCosts, timed: TimedPass) -> int:
    return -(-timed.queries // costs.limits.replicas)
