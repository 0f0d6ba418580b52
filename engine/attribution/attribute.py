"""Asking queries of a kept trajectory: measure, replay, record, and name the result complete."""

import contextlib
import math
import os

from engine.attribution.prepared_run import Job
from engine.attribution.queries import measurement_batches, query_losses, query_table
from engine.attribution.query_request import QueryRequest
from engine.attribution.replay_runner import (
    COMPLETION_FACTS,
    ReplayRunner,
    ReplayTargets,
    document_sums,
    findings_of,
)
from engine.attribution.reporter import Reporter
from engine.attribution.stop import Stop
from engine.attribution.subspace import (
    QueryBasis,
    forget_basis,
    is_replayed,
    put_together,
    query_basis,
    write_shares,
)
from engine.replay.replay import DivergedError
from engine.runs.atomic import sync_folder
from engine.runs.errors import RunError
from engine.runs.events import Event, Phase
from engine.runs.score_store import ScoreWriter, read_completion
from engine.runs.tables import read_table, write_queries
from engine.trajectory.replay_checkpoints import remove_saves
from engine.trajectory.tensor_files import remove_unfinished

_TOLD = (*COMPLETION_FACTS, "rounding", "subspace")


def attribute(
    asking: QueryRequest, job: Job, report: Reporter, stop: Stop, save_seconds: float
) -> None:
    """Compute and record an attribution of a trained run, going on with what is there of it.

    Raises:
        DivergedError: if a query's loss or a cotangent is not finite.
        RunError: if the trajectory is damaged or the disk is full.
        StoppedError: if it is asked to stop, after saving.
    """
    ranks = job.trainer.ranks
    if ranks.everyone(read_completion(asking.staging))[0] is None:
        if not ranks.everyone(_is_measured(asking))[0]:
            _measure(asking, job, report)
        _replay(asking, job, report, stop, save_seconds)
    ranks.wait()
    if ranks.index == 0:
        _publish(asking, report)
    ranks.wait()


def _publish(asking: QueryRequest, report: Reporter) -> None:
    facts = read_completion(asking.staging) or {}
    remove_saves(asking.staging)
    forget_basis(asking.staging)
    os.rename(asking.staging, asking.folder.attributions / asking.identifier)
    sync_folder(asking.folder.attributions)
    for finding in facts.get("findings", ()):
        report(Event.WARNING, message=finding["message"])
    report(
        Event.ATTRIBUTED,
        attribution=asking.identifier,
        queries=asking.queries.measurements,
        **{name: facts[name] for name in _TOLD if name in facts},
    )


def _replay(
    asking: QueryRequest, job: Job, report: Reporter, stop: Stop, save_seconds: float
) -> None:
    """Replay what is lacking of the queries, or of a basis of them, and complete the scores."""
    measurements = measurement_batches(asking.queries, job)
    facts = asking.queries.facts()
    queries = ReplayTargets(measurements, asking.staging, _dtype(job), facts=facts)
    if asking.tolerance is None:
        ReplayRunner(queries, asking, job, report, stop, save_seconds).run()
        return
    ranks = job.trainer.ranks
    if ranks.index == 0:
        remove_unfinished(asking.staging)
    ranks.wait()
    basis = query_basis(asking, job, measurements, report)
    if not basis.is_smaller:
        queries.facts["subspace"] = basis.facts
        zeros = [0.0] * len(measurements)
        if ranks.index == 0:
            write_shares(asking, zeros, zeros)
        ReplayRunner(queries, asking, job, report, stop, save_seconds).run()
        return
    directions = ReplayTargets(measurements, basis.folder, "float64", basis.subspace.combinations)
    if not ranks.everyone(is_replayed(basis))[0]:
        ReplayRunner(directions, asking, job, report, stop, save_seconds).run()
    ranks.wait()
    if ranks.index == 0:
        _put_together(basis, queries, job)


def _put_together(basis: QueryBasis, queries: ReplayTargets, job: Job) -> None:
    """Write and complete the queries' scores from those of their basis."""
    asking = basis.asking
    found = read_completion(basis.folder) or {}
    facts = {name: found.get(name) for name in (*COMPLETION_FACTS, "derivative")}
    writer = ScoreWriter(queries.folder, queries.shape(job, asking.granularity))
    sums = document_sums(job, asking.granularity)
    facts["rounding"] = put_together(basis, writer, sums, found["rounding"])
    facts["findings"] = findings_of(asking, writer, facts)
    record = asking.folder.record()
    writer.complete(
        record["run_id"], record["config_hash"], {**facts, **queries.facts, "subspace": basis.facts}
    )


def _dtype(job: Job) -> str:
    return "float64" if job.config.model.dtype == "float64" else "float32"


def _is_measured(asking: QueryRequest) -> bool:
    """Whether an earlier attempt measured the queries, and its table can be read."""
    file = asking.staging / "queries.parquet"
    with contextlib.suppress(RunError):
        return file.exists() and read_table(file).num_rows == len(asking.queries.items)
    return False


def _measure(asking: QueryRequest, job: Job, report: Reporter) -> None:
    queries = asking.queries
    report.phase(Phase.MEASURE, len(queries.items), asking.identifier)
    reader = job.trainer.open(asking.folder.trajectory)
    before = query_losses(queries, job, reader.load_state(0))
    after = query_losses(queries, job, reader.load_state(reader.schedule.steps))
    if not all(map(math.isfinite, after)):
        raise DivergedError("query's loss", reader.schedule.steps)
    for query, losses in enumerate(zip(before, after, strict=True)):
        report(Event.MEASURED, query=query, loss_before=losses[0], loss_after=losses[1])
    if job.trainer.ranks.index == 0:
        write_queries(asking.staging / "queries.parquet", query_table(queries, before, after))
