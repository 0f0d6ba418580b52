"""Attributing queries to a trained run: measure, replay, record, publish."""

import contextlib
import math
import os

from engine.attribution.prepared_run import PreparedRun
from engine.attribution.process import Stop
from engine.attribution.queries import QueryRequest, query_losses, query_table
from engine.attribution.replay_runner import ReplayRunner
from engine.attribution.reporting import Reporter
from engine.replay.replay import DivergedError
from engine.runs.atomic import sync_folder
from engine.runs.errors import RunError
from engine.runs.events import Event, Phase
from engine.runs.score_store import read_completion
from engine.runs.tables import read_table, write_queries
from engine.trajectory.replay_checkpoints import remove_checkpoints

_EVENT_FACTS = (
    *("created", "reduction", "granularity", "passes", "reproduced", "cotangents", "rounding"),
)
"""Facts of the completion record that the event ``attributed`` repeats."""


def attribute(
    request: QueryRequest, prepared: PreparedRun, report: Reporter, stop: Stop, save_seconds: float
) -> None:
    """Compute and record the scores of a query request, resuming an interrupted attempt.

    Raises:
        DivergedError: if a query's loss or a cotangent is not finite.
        RunError: if the trajectory is damaged or the disk is full.
        StoppedError: if ``stop`` is set; the replay is saved first.
    """
    ranks = prepared.trainer.ranks
    if ranks.all_gather(read_completion(request.staging))[0] is None:
        if not ranks.all_gather(_is_measured(request))[0]:
            _measure(request, prepared, report)
        ReplayRunner(request, prepared, report, stop, save_seconds).run()
    ranks.barrier()
    if ranks.index == 0:
        _publish(request, report)
    ranks.barrier()


def _publish(request: QueryRequest, report: Reporter) -> None:
    """Rename the staging folder to its final name, and report the attribution."""
    facts = read_completion(request.staging) or {}
    remove_checkpoints(request.staging)
    os.rename(request.staging, request.folder.attributions / request.identifier)
    sync_folder(request.folder.attributions)
    for finding in facts.get("findings", ()):
        report(Event.WARNING, message=finding["message"])
    report(
        Event.ATTRIBUTED,
        attribution=request.identifier,
        queries=request.queries.measurements,
        **{name: facts[name] for name in _EVENT_FACTS if name in facts},
    )


def _is_measured(request: QueryRequest) -> bool:
    """Whether an earlier attempt wrote a readable table of the queries' losses."""
    file = request.staging / "queries.parquet"
    with contextlib.suppress(RunError):
        return file.exists() and read_table(file).num_rows == len(request.queries.items)
    return False


def _measure(request: QueryRequest, prepared: PreparedRun, report: Reporter) -> None:
    """Write the losses of all query documents before and after training."""
    queries = request.queries
    report.phase(Phase.MEASURE, len(queries.items), request.identifier)
    reader = prepared.trainer.open(request.folder.trajectory)
    before = query_losses(queries, prepared, reader.load_state(0))
    after = query_losses(queries, prepared, reader.load_state(reader.schedule.steps))
    if not all(map(math.isfinite, after)):
        raise DivergedError("query's loss", reader.schedule.steps)
    for query, losses in enumerate(zip(before, after, strict=True)):
        report(Event.MEASURED, query=query, loss_before=losses[0], loss_after=losses[1])
    if prepared.trainer.ranks.index == 0:
        write_queries(request.staging / "queries.parquet", query_table(queries, before, after))
