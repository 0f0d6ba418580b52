"""How much is replayed at once: as many queries, and as many rows, as the memory allows."""

from dataclasses import dataclass

from engine.attribution.prepared_run import PreparedRun
from engine.attribution.replay_memory import WALK, Needs, graph_bytes, widest_part
from engine.cost.checkpointing_choice import size_text
from engine.cost.passes import enough_together, is_sparing
from engine.distributed.rank_setup import free_memory
from engine.runs.config import CheckpointingName
from engine.runs.errors import UsageError

MEMORY_SHARE = 0.6
"""Part of the free memory that a replay takes unless the config sets a budget."""
GRAPH_SHARE = 0.5
"""Part of that which the graph of a micro-batch chosen here takes; queries share the rest."""


@dataclass(frozen=True)
class Budget:
    """How many queries share one replay, and why."""

    queries_per_pass: int
    passes: int
    per_group: int
    """Queries that one group of ranks carries back in a pass."""
    reason: str
    advice: str | None
    """What to do if even one query takes more than it may."""


def budget_of(job: PreparedRun, needs: Needs, queries: int, schedule: CheckpointingName) -> Budget:
    """How many queries share one replay of a trajectory of a schedule.

    As many as fit. Where memory is spared, no more than save time, unless they take less than the
    graph that all of a pass share.

    Raises:
        UsageError: if the memory that is free cannot hold the replay of even one.
    """
    ranks, allowed = job.trainer.ranks, allowed_bytes(job)
    at_once = fit = min(fitting(job, needs), queries)
    if is_sparing(job.config, schedule, job.device.type):
        enough = enough_together(job.config, -(-queries // ranks.replicas))
        beside_graph = ranks.replicas * max(enough, needs.fitting(needs.kept))
        # Parts of a divided model differ in size, and all ranks replay the same queries.
        at_once = min(fit, *ranks.all_gather(beside_graph))
    per_pass = -(-queries // -(-queries // at_once))
    passes = -(-queries // per_pass)
    of_group = -(-per_pass // ranks.replicas)
    reason = (
        f"{per_pass} at a time: {of_group} {'need' if of_group > 1 else 'needs'} "
        f"{needs.queries(of_group) / 1e6:.0f} MB beside {needs.shared / 1e6:.0f} MB, and "
        f"{allowed / 1e9:.2g} GB may be used"
    )
    if at_once < fit:
        reason += "; more together would save little time"
    advice = None
    if (one := needs.shared + needs.queries(1)) > allowed:
        advice = (
            f"replaying even one query takes {size_text(one)} beside the train states, "
            f"{size_text(allowed)} may be used: lower training.micro_batch_size (auto finds the "
            "largest that fits), or raise attribution.memory_budget_gb"
        )
    return Budget(per_pass, passes, of_group, reason, advice)


def fitting(job: PreparedRun, needs: Needs) -> int:
    """The most queries, over all groups of ranks, that one replay has the memory for.

    Raises:
        UsageError: if the memory that is free cannot hold the replay of even one.
    """
    ranks, free = job.trainer.ranks, _free(job)
    # Every group of ranks replays as many as the rank with the least room can hold.
    own = needs.fitting(allowed_bytes(job) - needs.shared)
    found = ranks.all_gather((own, free - needs.least))
    if min(left for _, left in found) < 0:
        raise UsageError(
            f"replaying even one query takes {size_text(needs.least)} beside the train states, "
            f"{size_text(free)} are free: lower training.micro_batch_size (auto finds the largest "
            "that fits), or run where more memory is free"
        )
    return ranks.replicas * min(own for own, _ in found)


def allowed_bytes(job: PreparedRun) -> float:
    """What a rank's replay may take of the memory besides the train states."""
    given = job.config.attribution.memory_budget_gb
    return given * 1e9 if given else MEMORY_SHARE * _free(job)


def _free(job: PreparedRun) -> float:
    """Bytes free for one rank: those of a machine without GPUs share its memory."""
    ranks = job.trainer.ranks
    if job.device.type != "cpu":
        return free_memory(job.device)
    # What is held of the trajectory in the same memory was reckoned beside this.
    return free_memory(job.device) / ranks.count + job.trainer.host_cache.used


def with_micro_batch(job: PreparedRun) -> tuple[PreparedRun, str | None]:
    """The job with ``micro_batch_size: auto`` settled, and why so; any other as it is.

    The rows of a step are halved until the graph of a micro-batch, measured on one row of the
    widest step, takes no more than its share.
    """
    if job.config.training.micro_batch_size != "auto":
        return job, None
    ranks = job.trainer.ranks
    row = WALK * graph_bytes(job, widest_part(job, 1)).shared
    may = GRAPH_SHARE * allowed_bytes(job)
    rows = whole = -(-max(map(len, job.order)) // ranks.shard_group.count)
    while rows > 1 and rows * row > may:
        rows = -(-rows // 2)
    rows = min(ranks.all_gather(rows))
    how = "all rows of a step at once" if rows == whole else f"{rows} of {whole} rows at a time"
    reason = (
        f"{how}: the widest row's graph takes {size_text(row)}, and those of a micro-batch may "
        f"take {size_text(may)}"
    )
    return job.of_micro_batch(rows), reason
