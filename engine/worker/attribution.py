"""Asking queries of a kept trajectory: measure, replay in passes that fit, record the scores."""

import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.contract.config import Granularity
from engine.contract.events import Event, Phase
from engine.magic.replay import DivergedError
from engine.magic.train_step import FirstOrder
from engine.planning import free_memory
from engine.records.atomic import sync_folder
from engine.records.run_folder import RunFolder
from engine.records.score_store import ScoreShape, ScoreWriter, next_attribution_id
from engine.records.tables import write_queries
from engine.trainer import Scores
from engine.worker.job import Job
from engine.worker.queries import Queries, measurement_batches, query_losses, query_table
from engine.worker.reporter import Reporter

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


def attribute(
    folder: RunFolder, job: Job, queries: Queries, granularity: Granularity, report: Reporter
) -> str:
    """Compute and record an attribution of a trained run; returns its id.

    Raises:
        DivergedError: if a query's loss or a cotangent is not finite.
        RunError: if the trajectory is damaged or the disk is full.
    """
    identifier = next_attribution_id(folder.attributions)
    staging = folder.attributions / f".{identifier}.new"
    for abandoned in folder.attributions.glob(".*.new"):
        shutil.rmtree(abandoned, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        _measure(folder, job, queries, staging, identifier, report)
        facts = _replay(folder, job, queries, granularity, staging, identifier, report)
        final = folder.attributions / identifier
        os.rename(staging, final)
        sync_folder(folder.attributions)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    report(Event.ATTRIBUTED, attribution=identifier, queries=queries.measurements, **facts)
    return identifier


def budget_of(job: Job, queries: int, granularity: Granularity) -> Budget:
    """How many queries fit into one replay's memory, the graph of one step measured."""
    start = job.start
    params = sum(p.numel() * p.element_size() for p in start.params.values())
    stage = job.trainer.step.stage
    floats = stage.zero_cotangent(start.params, start.optimizer)
    optimizer = sum(leaf.numel() * leaf.element_size() for group in floats for leaf in group)
    weights = job.rows.input_ids.size if granularity == "token" else 2 * job.documents
    # A cotangent, the direction it gives, the product that is added to it, the scores so far.
    per_query = params + optimizer + 2 * params + weights * job.trainer.dtype.itemsize
    fixed = 3 * params + graph_bytes(job)
    given = job.config.attribution.memory_budget_gb
    allowed = given * 1e9 if given else MEMORY_SHARE * free_memory(job.device)
    fit = max(1, int((allowed - fixed) // per_query))
    per_pass = min(fit, queries)
    passes = -(-queries // per_pass)
    per_pass = -(-queries // passes)
    reason = (
        f"{per_pass} at a time: each needs {per_query / 1e6:.0f} MB beside {fixed / 1e6:.0f} MB, "
        f"and {allowed / 1e9:.2g} GB may be used"
    )
    return Budget(per_pass, passes, reason, fixed + per_pass * per_query)


def graph_bytes(job: Job) -> int:
    """Bytes that the graph of one step's gradient saves, measured on the widest batch."""
    lengths = job.rows.lengths
    widest = max(
        range(len(job.order)),
        key=lambda step: len(job.order[step]) * lengths[job.order[step]].max(),
    )
    batch = job.stream("token").batch(widest, job.trainer.dtype)
    part = next(batch.split(job.trainer.step.micro_batch_size))
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    params = job.start.params
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        FirstOrder(job.trainer.loss, params, part)
    own = {p.untyped_storage().data_ptr() for p in params.values()}
    loss = job.model.loss
    cache = part.weights.numel() * job.model.vocabulary * job.trainer.dtype.itemsize
    used = cache if loss.plain_head and cache <= loss.cache_bytes else 0
    return sum(size for pointer, size in seen.items() if pointer not in own) + used


def _measure(
    folder: RunFolder,
    job: Job,
    queries: Queries,
    staging: Path,
    identifier: str,
    report: Reporter,
) -> None:
    report.phase(Phase.MEASURE, len(queries.items), identifier)
    reader = job.trainer.open(folder.trajectory)
    before = query_losses(queries, job, reader.load_state(0))
    after = query_losses(queries, job, reader.load_state(reader.schedule.steps))
    if not all(map(math.isfinite, after)):
        raise DivergedError("query's loss", reader.schedule.steps)
    write_queries(staging / "queries.parquet", query_table(queries, before, after))
    for query, losses in enumerate(zip(before, after, strict=True)):
        report(Event.MEASURED, query=query, loss_before=losses[0], loss_after=losses[1])


def _replay(
    folder: RunFolder,
    job: Job,
    queries: Queries,
    granularity: Granularity,
    staging: Path,
    identifier: str,
    report: Reporter,
) -> dict[str, Any]:
    stream = job.stream(granularity)
    measurements = measurement_batches(queries, job)
    budget = budget_of(job, len(measurements), granularity)
    report.phase(Phase.REPLAY, budget.passes * len(stream), identifier)
    writer = ScoreWriter(staging, _shape(job, len(measurements), len(stream), granularity))
    documents = _document_sums(job, granularity)
    for number in range(budget.passes):
        first = number * budget.queries_per_pass
        chosen = list(range(len(measurements)))[first : first + budget.queries_per_pass]
        report(
            Event.PASS, number=number, passes=budget.passes, queries=chosen, reason=budget.reason
        )
        asked = [measurements[query] for query in chosen]
        # Not kept in a name: the next pass needs the memory.
        _record(
            writer,
            chosen,
            job.trainer.backward(folder.trajectory, stream, asked, observer=report),
            documents,
        )
    facts = {
        "created": time.time(),
        "reduction": queries.reduction,
        "granularity": granularity,
        "passes": budget.passes,
        "reproduced": report.reproduced,
    }
    record = folder.record()
    writer.complete(record["run_id"], record["config_hash"], facts)
    return facts


def _shape(job: Job, queries: int, steps: int, granularity: Granularity) -> ScoreShape:
    rows, tokens = job.rows.input_ids.shape
    dtype = "float64" if job.config.model.dtype == "float64" else "float32"
    return ScoreShape(queries, rows, tokens, job.documents, steps, dtype, granularity)


DocumentSums = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _document_sums(job: Job, granularity: Granularity) -> DocumentSums:
    """How to get the documents' scores from those of the stream's weights."""
    if granularity == "document":
        return lambda scores: scores
    owners = job.rows.document_ids.ravel()
    known = owners >= 0

    def sums(scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(owners[known], scores.ravel()[known], job.documents).astype(np.float64)

    return sums


def _record(
    writer: ScoreWriter, queries: list[int], scores: Scores, documents: DocumentSums
) -> None:
    for position, query in enumerate(queries):
        weights = scores.weights[position].double().numpy()
        writer.write(query, weights, documents(weights), scores.steps[position].numpy())
