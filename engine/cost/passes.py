"""In how many passes queries are replayed where memory is worth a little time.

The queries of a pass share the graph of every step, and each holds a cotangent as large as a train
state. A GPU is one run's alone and is filled. The memory of a machine is others' too.
"""

from engine.runs.config import RunConfig

SHARED_TIME, RECOMPUTED = 0.5, 0.75
"""What the queries of a pass share of a step, in times of carrying one query back through it: a
gradient's cost, where a Hessian-vector product costs two; and where layers are computed again."""
SPARING = 1 / 8
"""Time that may be added so that fewer queries are in memory together."""


def is_sparing(config: RunConfig, schedule: str, device: str) -> bool:
    """Whether a run spares memory: on a CPU, unless the config says how much it may take.

    Every pass of ``sqrt`` and ``log`` trains again, so that more passes lose more.
    """
    given = config.attribution.memory_budget_gb
    return device == "cpu" and given is None and schedule not in ("sqrt", "log")


def enough_together(config: RunConfig, queries: int) -> int:
    """The fewest queries in a pass with which all take ``SPARING`` longer than in one, at most."""
    shared = RECOMPUTED if config.training.activation_checkpointing else SHARED_TIME
    passes = int(1 + SPARING + SPARING * queries / shared)
    return -(-queries // passes)
