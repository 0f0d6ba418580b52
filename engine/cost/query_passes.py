"""What the queries of a replay need of memory, and how many share one pass.

The queries of a pass share the graph of every step, and each needs memory for a cotangent as large
as a train state. A GPU is used by one run alone, so as many queries as fit are replayed together.
The memory of a CPU machine is shared with other programs: there, queries are batched until their
memory equals the shared graph's, or until a larger batch would save less than 1/8 of the time.
"""

from dataclasses import dataclass

from engine.cost.measured import size_text
from engine.runs.config import CheckpointingName

MEMORY_SHARE = 0.6
"""Share of the free memory that a replay takes, unless the config sets a budget."""
SHARED_TIME, SHARED_TIME_RECOMPUTED = 0.5, 0.75
"""Time of building a step's graph, in units of one query's VJP through it: a gradient costs half a
Hessian-vector product. The second value is for layers whose activations are recomputed."""
TIME_SLACK = 1 / 8
"""Share of the time that smaller passes may add to save memory."""
BACKWARD_FACTOR = 2
"""Differentiating a graph takes about as much memory again as the graph."""


@dataclass(frozen=True)
class ReplayMemory:
    """Bytes that one rank's replay takes beside the train states."""

    params: int
    cotangent: int
    """One query's cotangent: parameters, optimizer state and buffers."""
    scores: int
    """One query's scores, in host memory."""
    graph: int
    """The graph of one micro-batch's gradient."""
    tangents: int
    """What each query adds to the graph with activation checkpointing."""
    all_directions: bool
    """Whether the directions of all queries are in memory together, rather than one."""

    def queries(self, count: int) -> int:
        """Cotangents, directions and scores of ``count`` queries."""
        return count * (self.cotangent + self.scores + self.tangents) + self.directions(count)

    def directions(self, count: int) -> int:
        """Directions held for ``count`` queries."""
        return self.params * (count if self.all_directions else 1)

    def fitting(self, allowed: float) -> int:
        """The most queries that take at most ``allowed`` bytes, at least one."""
        once = 0 if self.all_directions else self.params
        return max(1, int((allowed - once) // (self.queries(1) - once)))

    @property
    def shared(self) -> int:
        """What the queries of a pass share.

        The gradients of a step and of a micro-batch, their product with one query, and the graph
        while it is differentiated.
        """
        return 3 * self.params + BACKWARD_FACTOR * self.graph

    @property
    def least(self) -> int:
        """The minimum for replaying one query."""
        return self.cotangent + 2 * self.params + self.graph + self.tangents


@dataclass(frozen=True)
class QueryPasses:
    """How queries are divided among passes."""

    queries: int = 1
    passes: int = 1
    per_pass: int = 1
    per_replica: int = 1
    """Queries that one replica replays in a pass."""
    reason: str = ""


@dataclass(frozen=True)
class PassLimits:
    """What limits the queries of one pass; the same on all ranks but for ``memory``."""

    memory: ReplayMemory
    allowed_bytes: float
    """Memory that a rank's replay may take beside the train states."""
    fitting: int
    """Queries that fit, over all replicas."""
    within_graph: int
    """Queries of one replica that need no more memory than the graph of a step."""
    replicas: int
    saves_memory: bool
    """Whether passes are kept small: on a CPU, unless the config sets a memory budget."""
    shared_time: float
    """Time of building a step's graph, in units of one query's VJP through it."""

    def passes(self, queries: int, checkpointing: CheckpointingName) -> QueryPasses:
        """Divide ``queries`` evenly among as few passes as the limits allow.

        ``sqrt`` and ``log`` repeat training steps in every pass, so their passes are not kept
        small.
        """
        at_once = fit = min(self.fitting, queries)
        if self.saves_memory and checkpointing not in ("sqrt", "log"):
            enough = enough_queries(-(-queries // self.replicas), self.shared_time)
            at_once = min(fit, self.replicas * max(enough, self.within_graph))
        per_pass = -(-queries // -(-queries // at_once))
        per_replica = -(-per_pass // self.replicas)
        reason = (
            f"{per_pass} at a time: {per_replica} {'need' if per_replica > 1 else 'needs'} "
            f"{self.memory.queries(per_replica) / 1e6:.0f} MB beside "
            f"{self.memory.shared / 1e6:.0f} MB, and {self.allowed_bytes / 1e9:.2g} GB may be used"
        )
        if at_once < fit:
            reason += "; larger passes would save little time"
        return QueryPasses(queries, -(-queries // per_pass), per_pass, per_replica, reason)

    @property
    def advice(self) -> str | None:
        """What to change if one query alone needs more than the allowed memory."""
        one = self.memory.shared + self.memory.queries(1)
        if one <= self.allowed_bytes:
            return None
        return (
            f"replaying a single query takes {size_text(one)} beside the train states, "
            f"{size_text(self.allowed_bytes)} may be used: lower training.micro_batch_size (auto "
            "finds the largest that fits), or raise attribution.memory_budget_gb"
        )


def enough_queries(queries: int, shared_time: float) -> int:
    """The fewest queries a pass whose passes together take at most 1/8 longer than one pass."""
    passes = int(1 + TIME_SLACK + TIME_SLACK * queries / shared_time)
    return -(-queries // passes)
