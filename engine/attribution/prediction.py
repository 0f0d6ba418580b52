"""What a run would take: time, memory and disk, for ``plan`` and for the run itself."""

from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from engine.attribution.budget import Budget, budget_of
from engine.attribution.footprint import Footprint, Peak, footprint_of
from engine.attribution.prepared_run import PreparedRun
from engine.attribution.queries import Queries, measurement_batches
from engine.attribution.replay_memory import Needs, needs_of
from engine.attribution.tiers import host_tier_bytes
from engine.cost.checkpointing_choice import (
    FEW_STEPS,
    KINDS,
    Asked,
    Costs,
    Estimate,
    Room,
    choose,
    wants_times,
)
from engine.replay.checkpointing import CheckpointingKind
from engine.runs.score_store import TOP_DOCUMENTS

DESCRIPTIONS = 20_000
"""Bytes of what lies beside an attribution's scores: its queries, and what describes arrays."""


@dataclass(frozen=True)
class Prediction:
    """What a run would take, and the schedule it is to have."""

    costs: Costs
    room: Room
    needs: Needs
    budgets: dict[CheckpointingKind, Budget]
    footprint: Footprint | None
    """None where there is no prediction of the memory."""
    chosen: Estimate
    reason: str
    queries: int
    """Measurements asked for."""
    tier: int
    """Bytes of the trajectory that host memory may hold."""

    @property
    def budget(self) -> Budget:
        """How many queries share one replay."""
        return self.budgets[self.chosen.schedule.kind]

    def peak(self, option: Estimate) -> Peak | None:
        """The memory that a run under a schedule takes, if that is predicted."""
        if self.footprint is None:
            return None
        together = self.budgets[option.schedule.kind].per_group if self.queries else 0
        return self.footprint.peak(option, self.costs, self.needs, together, self.tier)


def predict(
    job: PreparedRun, queries: Queries | None, folder: Path, is_plan: bool = False
) -> Prediction:
    """Predict a run in ``folder``, taking some of its steps for it.

    A plan predicts everything. Of a run that is to start times are measured if its schedule depends
    on them, and memory if there are more steps than measuring takes.

    Raises:
        UsageError: if the memory that is free cannot hold the replay of even one query.
    """
    count, steps = 0 if queries is None else queries.measurements, len(job.order)
    asked_for, training = job.config.trajectory.checkpointing, job.training
    needs = needs_of(job, job.config.attribution.granularity)
    replayed = 1 if queries is None else len(set(queries.replayed))
    budgets = {kind: budget_of(job, needs, replayed, kind) for kind in KINDS}
    footprint = footprint_of(job) if is_plan or steps > FEW_STEPS else None
    asked = _asked(budgets["gradients"])
    if is_plan or wants_times(asked_for, steps):
        measurements = [] if queries is None else measurement_batches(queries, job)
        costs = training.measured(folder, asked, list(chain.from_iterable(measurements)))
    else:
        costs = training.costs(asked=asked)
    again = replace(_asked(budgets["sqrt"]), measure_seconds=costs.asked.measure_seconds)
    costs, room = replace(costs, asked_again=again), training.room(folder)
    chosen, reason = choose(costs, room, asked_for)
    tier = host_tier_bytes(job)
    return Prediction(
        costs, room, needs, budgets, footprint, chosen, reason, queries=count, tier=tier
    )


def _asked(budget: Budget) -> Asked:
    return Asked(budget.passes, budget.per_group)


def scores_bytes(job: PreparedRun, queries: int) -> int:
    """What an attribution takes on disk, its scores before they are compressed."""
    size = job.trainer.dtype.itemsize if job.config.model.dtype == "float64" else 4
    # Padding is zeros, which compress to nothing.
    tokens = int(job.rows.lengths.sum()) if job.config.attribution.granularity == "token" else 0
    top = 2 * 8 * min(TOP_DOCUMENTS, job.documents)
    return DESCRIPTIONS + queries * (size * (tokens + job.documents + len(job.order)) + top)
