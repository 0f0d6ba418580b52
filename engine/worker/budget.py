"""How much is replayed at once: as many queries, and as many rows, as the memory allows."""

from dataclasses import dataclass

from engine.checkpoints.planner import size_text
from engine.contract.config import Granularity
from engine.contract.errors import UsageError
from engine.planning import free_memory
from engine.worker.job import Job
from engine.worker.memory import WALK, Needs, graph_bytes, needs_of, widest_part

MEMORY_SHARE = 0.6
"""Part of the free memory that a replay takes unless the config sets a budget."""
GRAPH_SHARE = 0.5
"""Part of that which the graph of a micro-batch chosen here takes; queries share the rest."""
SHARED_TIME = 0.5
"""The graph that the queries of a pass share, in times of carrying one query back through it: a
gradient's cost, where a Hessian-vector product costs two."""
SPARING = 1 / 8
"""Time that may be added so that fewer queries are in memory together."""


@dataclass(frozen=True)
class Budget:
    """How many queries share one replay, and why."""

    queries_per_pass: int
    fitting: int
    """The most that would fit."""
    passes: int
    per_group: int
    """Queries that one group of ranks carries back in a pass."""
    reason: str
    advice: str | None
    """What to do if even one query takes more than it may."""
    needs: Needs


def budget_of(job: Job, queries: int, granularity: Granularity) -> Budget:
    """How many queries share one replay, the graph of one step measured.

    As many as fit. But where the memory is a machine's, which others use too, and the config gives
    no budget of it, as few as add little to the time.

    Raises:
        UsageError: if the memory that is free cannot hold the replay of even one.
    """
    needs, ranks = needs_of(job, granularity), job.trainer.ranks
    allowed, free = allowed_bytes(job), _free(job)
    # Every group of ranks replays as many as the rank with the least room can hold.
    own = needs.fitting(allowed - needs.shared)
    found = ranks.everyone((own, free - needs.least))
    if min(left for _, left in found) < 0:
        raise UsageError(
            f"replaying even one query takes {size_text(needs.least)} beside the train states, "
            f"{size_text(free)} are free: lower training.micro_batch_size (auto finds the largest "
            "that fits), or run where more memory is free"
        )
    fit = ranks.groups * min(own for own, _ in found)
    passes = least = -(-queries // min(fit, queries))
    if _is_sparing(job):
        passes = max(least, _little_slower(-(-queries // ranks.groups)))
    per_pass = -(-queries // passes)
    of_group = -(-per_pass // ranks.groups)
    reason = (
        f"{per_pass} at a time: {of_group} {'need' if of_group > 1 else 'needs'} "
        f"{needs.queries(of_group) / 1e6:.0f} MB beside {needs.shared / 1e6:.0f} MB, and "
        f"{allowed / 1e9:.2g} GB may be used"
    )
    if passes > least:
        reason += "; more together would save little time"
    advice = None
    if (one := needs.shared + needs.queries(1)) > allowed:
        advice = (
            f"replaying even one query takes {size_text(one)} beside the train states, "
            f"{size_text(allowed)} may be used: lower training.micro_batch_size (auto finds the "
            "largest that fits), or raise attribution.memory_budget_gb"
        )
    return Budget(per_pass, min(fit, queries), passes, of_group, reason, advice, needs)


def _is_sparing(job: Job) -> bool:
    """Whether memory is worth a little time; schedules that train again lose more than that."""
    config = job.config
    return (
        job.device.type == "cpu"
        and config.attribution.memory_budget_gb is None
        and config.trajectory.schedule not in ("sqrt", "log")
    )


def _little_slower(queries: int) -> int:
    """The most passes that take no more than ``SPARING`` over the time of one."""
    return int((1 + SPARING) + SPARING * queries / SHARED_TIME)


def allowed_bytes(job: Job) -> float:
    """What a rank's replay may take of the memory besides the train states."""
    given = job.config.attribution.memory_budget_gb
    return given * 1e9 if given else MEMORY_SHARE * _free(job)


def _free(job: Job) -> float:
    """Bytes free for one rank: those of a machine without GPUs share its memory."""
    ranks = job.trainer.ranks
    if job.device.type != "cpu":
        return free_memory(job.device)
    # What is held of the trajectory in the same memory was reckoned beside this.
    return free_memory(job.device) / ranks.count + job.trainer.tier.used


def with_micro_batch(job: Job) -> tuple[Job, str | None]:
    """The job with ``micro_batch_size: auto`` settled, and why so; any other as it is.

    The rows of a step are halved until the graph of a micro-batch, measured on one row of the
    widest step, takes no more than its share.
    """
    if job.config.training.micro_batch_size != "auto":
        return job, None
    ranks = job.trainer.ranks
    row = WALK * graph_bytes(job, widest_part(job, 1)).shared
    may = GRAPH_SHARE * allowed_bytes(job)
    rows = whole = -(-max(map(len, job.order)) // ranks.group.count)
    while rows > 1 and rows * row > may:
        rows = -(-rows // 2)
    rows = min(ranks.everyone(rows))
    how = "all rows of a step at once" if rows == whole else f"{rows} of {whole} rows at a time"
    reason = (
        f"{how}: the widest row's graph takes {size_text(row)}, and those of a micro-batch may "
        f"take {size_text(may)}"
    )
    return job.of_micro_batch(rows), reason
