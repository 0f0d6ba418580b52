"""Asking queries of a kept trajectory: measure, replay, record, and name the result complete."""

import contextlib
import math
import os

from engine.checkpoints.replay_saves import remove_saves
from engine.contract.errors import RunError
from engine.contract.events import Event, Phase
from engine.magic.replay import DivergedError
from engine.records.atomic import sync_folder
from engine.records.score_store import read_completion
from engine.records.tables import read_table, write_queries
from engine.worker.asking import Asking, forget_asked
from engine.worker.job import Job
from engine.worker.queries import query_losses, query_table
from engine.worker.replaying import Replaying
from engine.worker.reporter import Reporter
from engine.worker.stop import Stop

_FACTS = ("created", "reduction", "granularity", "passes", "reproduced")


def attribute(asking: Asking, job: Job, report: Reporter, stop: Stop, save_seconds: float) -> None:
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
        Replaying(asking, job, report, stop, save_seconds).run()
    ranks.wait()
    if ranks.index == 0:
        _publish(asking, report)
    ranks.wait()


def _publish(asking: Asking, report: Reporter) -> None:
    facts = read_completion(asking.staging) or {}
    remove_saves(asking.staging)
    forget_asked(asking.staging)
    os.rename(asking.staging, asking.folder.attributions / asking.identifier)
    sync_folder(asking.folder.attributions)
    report(
        Event.ATTRIBUTED,
        attribution=asking.identifier,
        queries=asking.queries.measurements,
        **{name: facts[name] for name in _FACTS},
    )


def _is_measured(asking: Asking) -> bool:
    """Whether an earlier attempt measured the queries, and its table can be read."""
    file = asking.staging / "queries.parquet"
    with contextlib.suppress(RunError):
        return file.exists() and read_table(file).num_rows == len(asking.queries.items)
    return False


def _measure(asking: Asking, job: Job, report: Reporter) -> None:
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
