"""The predicted cost of a prepared run: memory, passes of queries, time and disk."""

import os
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import psutil

from engine.attribution.prepared_run import PreparedRun
from engine.attribution.queries import Queries, measurement_batches
from engine.cost.attribution_cost import RunCosts
from engine.cost.checkpointing_choice import FEW_STEPS, KINDS, Estimate, choose, measures_times
from engine.cost.measured import FreeSpace, size_text
from engine.cost.memory_probe import GraphBytes
from engine.cost.peak_memory import PeakMemory
from engine.cost.query_passes import (
    BACKWARD_FACTOR,
    MEMORY_SHARE,
    SHARED_TIME,
    SHARED_TIME_RECOMPUTED,
    PassLimits,
    QueryPasses,
    ReplayMemory,
)
from engine.cost.training_profile import TrainingProfile
from engine.distributed.rank_setup import free_memory
from engine.replay.checkpointing import CheckpointingKind
from engine.runs.config import Granularity
from engine.runs.errors import UsageError
from engine.runs.score_store import TOP_DOCUMENTS

GRAPH_SHARE = 0.5
"""Share of the replay's memory that the graph of an ``auto`` micro-batch takes; the rest is for
queries."""
CACHE_SHARE = 0.5
"""Share of the free host memory that the host cache takes beside a GPU."""
FILE_SLACK = 2**20
"""Bytes by which a state's file may be larger if other ranks wrote it."""
METADATA_BYTES = 20_000
"""Bytes of an attribution beside its scores: queries and descriptions of the arrays."""


@dataclass(frozen=True)
class Prediction:
    """What a run will cost, and its checkpointing."""

    costs: RunCosts
    free: FreeSpace
    passes: dict[CheckpointingKind, QueryPasses]
    """How the queries are divided among passes, by kind of checkpointing."""
    chosen: Estimate
    reason: str
    queries: int
    """Number of query losses; 0 if the config has no queries."""

    @property
    def chosen_passes(self) -> QueryPasses:
        """The passes under the chosen checkpointing."""
        return self.passes[self.chosen.schedule.kind]

    def peak(self, option: Estimate) -> PeakMemory | None:
        """The peak memory of the run under a kind of checkpointing; None if not measured."""
        costs = self.costs
        if costs.footprint is None:
            return None
        together = self.passes[option.schedule.kind].per_replica if self.queries else 0
        return costs.footprint.peak(
            option, costs.training, costs.limits.memory, together, costs.cache_bytes
        )


def predict(
    prepared: PreparedRun, queries: Queries | None, folder: Path, is_plan: bool = False
) -> Prediction:
    """Predict a run whose trajectory is written to ``folder``, from some of its steps.

    A plan measures everything. A run that is about to start measures times only if its
    checkpointing depends on them, and memory only if it has more steps than measuring takes.

    Raises:
        UsageError: if the free memory cannot hold the replay of a single query.
    """
    steps, checkpointing = len(prepared.order), prepared.config.trajectory.checkpointing
    training = prepared.training
    limits = pass_limits(prepared, prepared.config.attribution.granularity, training)
    replayed = 1 if queries is None else len(set(queries.replayed))
    passes = {kind: limits.passes(replayed, kind) for kind in KINDS}
    footprint = training.footprint() if is_plan or steps > FEW_STEPS else None
    timed = folder if is_plan or measures_times(checkpointing, steps) else None
    batches = [] if queries is None or timed is None else measurement_batches(queries, prepared)
    costs = training.costs(timed, passes["gradients"], list(chain.from_iterable(batches)))
    free = training.free_space(folder)
    chosen, reason = choose(costs, passes, free, checkpointing)
    run_costs = RunCosts(
        costs, limits, footprint, host_cache_bytes(prepared), score_bytes(prepared)
    )
    count = 0 if queries is None else queries.measurements
    return Prediction(run_costs, free, passes, chosen, reason, count)


def pass_limits(
    prepared: PreparedRun, granularity: Granularity, training: TrainingProfile | None = None
) -> PassLimits:
    """What limits the queries of one pass; a collective call of all ranks.

    Args:
        prepared: the prepared run.
        granularity: of the scores.
        training: the run's profile, if there is one already.

    Raises:
        UsageError: if the free memory of a rank cannot hold the replay of a single query.
    """
    config, ranks = prepared.config, prepared.trainer.ranks
    # A profile made here is freed before free memory is measured.
    memory = _replay_memory(prepared, granularity, training or prepared.training)
    free, allowed = _free_bytes(prepared), _allowed_bytes(prepared)
    own = memory.fitting(allowed - memory.shared), memory.fitting(memory.graph)
    # Shards differ in size, and all ranks replay the same queries.
    of_ranks = ranks.all_gather((*own, free - memory.least))
    fitting, within_graph, left = map(min, zip(*of_ranks, strict=True))
    if left < 0:
        raise UsageError(
            f"replaying a single query takes {size_text(memory.least)} beside the train states, "
            f"{size_text(free)} are free: lower training.micro_batch_size (auto finds the largest "
            "that fits), or run where more memory is free"
        )
    recomputes = config.training.activation_checkpointing
    return PassLimits(
        memory,
        allowed,
        ranks.replicas * int(fitting),
        int(within_graph),
        ranks.replicas,
        prepared.device.type == "cpu" and config.attribution.memory_budget_gb is None,
        SHARED_TIME_RECOMPUTED if recomputes else SHARED_TIME,
    )


def with_micro_batch(prepared: PreparedRun) -> tuple[PreparedRun, str | None]:
    """Resolve ``micro_batch_size: auto``; the reason is None if it is not ``auto``.

    The rows are halved until the graph of a micro-batch takes at most its share of the memory. The
    graph is measured on one row of the widest step.
    """
    if prepared.config.training.micro_batch_size != "auto":
        return prepared, None
    ranks = prepared.trainer.ranks
    row = BACKWARD_FACTOR * _graph_bytes(prepared, prepared.training, 1).shared
    allowed = GRAPH_SHARE * _allowed_bytes(prepared)
    rows = whole = -(-max(map(len, prepared.order)) // ranks.shard_group.count)
    while rows > 1 and rows * row > allowed:
        rows = -(-rows // 2)
    rows = min(ranks.all_gather(rows))
    how = "all rows of a step at once" if rows == whole else f"{rows} of {whole} rows at a time"
    reason = (
        f"{how}: the graph of the widest row takes {size_text(row)}, and a micro-batch may take "
        f"{size_text(allowed)}"
    )
    return prepared.with_micro_batch(rows), reason


def host_cache_bytes(prepared: PreparedRun) -> int:
    """Bytes of host memory that this rank's cache of the trajectory may take.

    By default, on a CPU, there is room to read one train state ahead: the operating system caches
    the files anyway. Beside a GPU the cache takes half of the free host memory, because decoding
    files would delay the GPU.
    """
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", prepared.trainer.ranks.count))
    given = prepared.config.trajectory.memory_gb
    if given is not None:
        return int(given * 1e9) // ranks
    state = prepared.training.state_bytes + FILE_SLACK
    if prepared.device.type == "cpu":
        return state
    free = psutil.virtual_memory().available // ranks
    return max(state, int(CACHE_SHARE * free))


def score_bytes(prepared: PreparedRun) -> int:
    """One query's scores on disk in bytes, before compression."""
    config = prepared.config
    size = prepared.trainer.dtype.itemsize if config.model.dtype == "float64" else 4
    # Padding is zeros, which compress to nothing.
    of_tokens = config.attribution.granularity == "token"
    tokens = int(prepared.rows.lengths.sum()) if of_tokens else 0
    top = 2 * 8 * min(TOP_DOCUMENTS, prepared.documents)
    return size * (tokens + prepared.documents + len(prepared.order)) + top


def _replay_memory(
    prepared: PreparedRun, granularity: Granularity, training: TrainingProfile
) -> ReplayMemory:
    weights = prepared.rows.document_ids.size if granularity == "token" else 2 * prepared.documents
    graph = _graph_bytes(prepared, training, training.step.micro_batch_size)
    return training.replay_memory(graph, weights * prepared.trainer.dtype.itemsize)


def _graph_bytes(prepared: PreparedRun, training: TrainingProfile, rows: int | None) -> GraphBytes:
    """What the graph of the widest micro-batch of ``rows`` rows saves."""
    part = training.widest_part(rows)
    # The output layer caches the tokens' probabilities where it can.
    head = prepared.model.cached_bytes(part.weights.numel(), prepared.trainer.dtype.itemsize)
    return training.graph_bytes(part, prepared.model.loss.parameters(), head)


def _allowed_bytes(prepared: PreparedRun) -> float:
    """Memory that a rank's replay may take beside the train states."""
    given = prepared.config.attribution.memory_budget_gb
    return given * 1e9 if given else MEMORY_SHARE * _free_bytes(prepared)


def _free_bytes(prepared: PreparedRun) -> float:
    """Free bytes for one rank; the ranks of a CPU machine share its memory."""
    ranks = prepared.trainer.ranks
    if prepared.device.type != "cpu":
        return free_memory(prepared.device)
    # The host cache is counted separately.
    return free_memory(prepared.device) / ranks.count + prepared.trainer.host_cache.used
