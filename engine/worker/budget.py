"""How many queries share one replay: as many as the memory allows."""

from dataclasses import dataclass
from typing import Any

import torch

from engine.contract.config import Granularity
from engine.magic.layerwise import LayeredLoss
from engine.magic.train_step import FirstOrder
from engine.planning import free_memory
from engine.worker.job import Job
from engine.worker.layer_memory import layer_memory

MEMORY_SHARE = 0.6
"""Part of the free memory that a replay takes unless the config sets a budget."""


@dataclass(frozen=True)
class Budget:
    """How many queries share one replay, and why."""

    queries_per_pass: int
    passes: int
    reason: str
    bytes: int
    """Memory that a pass is expected to take on top of the train states it holds."""


def budget_of(job: Job, queries: int, granularity: Granularity) -> Budget:
    """How many queries fit into one replay's memory, the graph of one step measured."""
    start = job.start
    params = sum(p.numel() * p.element_size() for p in start.params.values())
    stage = job.trainer.step.stage
    floats = stage.zero_cotangent(start.params, start.optimizer)
    optimizer = sum(leaf.numel() * leaf.element_size() for group in floats for leaf in group)
    weights = job.rows.document_ids.size if granularity == "token" else 2 * job.documents
    # A cotangent, the direction it gives, the product that is added to it, the scores so far.
    per_query = params + optimizer + 2 * params + weights * job.trainer.dtype.itemsize
    graph, tangents = graph_bytes(job)
    per_query, fixed = per_query + tangents, 3 * params + graph
    given, ranks = job.config.attribution.memory_budget_gb, job.trainer.ranks
    # What is held of the trajectory in the same memory was reckoned beside this share.
    beside = job.trainer.tier.used if job.device.type == "cpu" else 0
    allowed = given * 1e9 if given else MEMORY_SHARE * (free_memory(job.device) + beside)
    # Every group of ranks replays as many as the rank with the least room can hold.
    fit = ranks.groups * min(ranks.everyone(max(1, int((allowed - fixed) // per_query))))
    per_pass = min(fit, queries)
    passes = -(-queries // per_pass)
    per_pass = -(-queries // passes)
    reason = (
        f"{per_pass} at a time: each needs {per_query / 1e6:.0f} MB beside {fixed / 1e6:.0f} MB, "
        f"and {allowed / 1e9:.2g} GB may be used"
    )
    return Budget(per_pass, passes, reason, fixed + per_pass * per_query)


def graph_bytes(job: Job) -> tuple[int, int]:
    """Bytes that one step's second derivatives keep at a time, measured on the widest batch.

    The second number is what every query adds.
    """
    lengths = job.rows.lengths
    widest = max(
        range(len(job.order)),
        key=lambda step: len(job.order[step]) * lengths[job.order[step]].max(),
    )
    finest: Granularity = "token" if job.config.has_tokens else "document"
    batch, ranks = job.stream(finest).batch(widest, job.trainer.dtype), job.trainer.ranks.group
    part = next(ranks.own_rows(batch).split(job.trainer.step.micro_batch_size))
    params, loss, cut = job.start.params, job.model.loss, job.trainer.step.loss
    used = job.model.cached_bytes(part.weights.numel(), job.trainer.dtype.itemsize)
    if isinstance(cut, LayeredLoss):
        found = layer_memory(cut, params, part, ranks, loss.parameters())
        # The head's probabilities are alive while no layer's graph is.
        return max(found.shared, found.query + used), found.query
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> Any:
        kept = ranks.keep(tensor)
        if isinstance(kept, torch.Tensor):
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        return kept

    with torch.autograd.graph.saved_tensors_hooks(note, ranks.restore):
        FirstOrder(job.trainer.loss, params, part, job.start.buffers)
    own = {p.untyped_storage().data_ptr() for p in (*params.values(), *loss.parameters())}
    return sum(size for pointer, size in seen.items() if pointer not in own) + used, 0
