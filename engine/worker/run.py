"""A whole run: prepare in a staging folder, train, then attribute the config's queries."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

from engine.checkpoints.planner import Estimate
from engine.contract.config import QueriesConfig, Reduction, RunConfig
from engine.contract.errors import UsageError
from engine.contract.events import Event, Phase
from engine.contract.read_config import read_config
from engine.records.atomic import sync_folder, sync_tree
from engine.records.journal import JournalWriter
from engine.records.run_folder import RunFolder, sweep
from engine.worker.attribution import attribute, budget_of
from engine.worker.device import set_up_device
from engine.worker.job import Job, new_job, stored_job, warnings_of, write_job
from engine.worker.queries import Queries, read_queries, typed_queries
from engine.worker.reporter import Reporter
from engine.worker.scope import reported


def forced_config(path: Path, force: list[str]) -> RunConfig:
    """A config file with checks overridden from the command line as well."""
    config = read_config(path)
    names = dict.fromkeys([*config.force, *force])
    return config.model_validate({**config.model_dump(), "force": list(names)})


def run(config: RunConfig, runs: Path, run_id: str) -> dict[str, Any]:
    """Train a config, keep its trajectory, attribute its queries; returns the facts to print.

    Until the config, its data, its model and the room on disk are checked, everything lies in a
    hidden folder that is removed when a check fails.
    """
    _make_runs_folder(runs)
    staging = RunFolder(runs / f".{run_id}.new")
    staging.path.mkdir()
    final = RunFolder(runs / run_id)
    report = Reporter(JournalWriter(staging.events_file))
    with staging.lock(), reported(report, "run"):
        try:
            warnings = warnings_of(config)
            report(Event.STARTED, pid=os.getpid(), work="run", warnings=warnings)
            job, queries, plan, reason = _prepare(staging, config, run_id, report)
            os.rename(staging.path, final.path)
        except BaseException:
            shutil.rmtree(staging.path, ignore_errors=True)
            raise
        sync_folder(runs)
        attribution = _compute(final, job, queries, (plan, reason), report)
    return {"run": run_id, "path": str(final.path), "attribution": attribution}


def attribute_run(folder: RunFolder, request: dict[str, Any]) -> dict[str, Any]:
    """Ask new queries of a run's trajectory; returns the facts to print.

    ``request`` holds ``texts`` or ``queries`` (the keys of a source), ``reduction`` and
    ``granularity``.
    """
    with folder.lock():
        job = _stored(folder)
        queries = _requested(request, job)
        report = Reporter(JournalWriter(folder.events_file))
        report.job = job
        report(Event.STARTED, pid=os.getpid(), work="attribute", warnings=warnings_of(job.config))
        with reported(report, "attribute"):
            granularity = request.get("granularity") or job.config.attribution.granularity
            attribution = attribute(folder, job, queries, granularity, report)
    return {"run": folder.id, "path": str(folder.path), "attribution": attribution}


def _plan(job: Job, queries: Queries | None, folder: Path) -> tuple[Estimate, str]:
    """The schedule of a run in ``folder``, and why."""
    count = 1 if queries is None else queries.measurements
    budget = budget_of(job, count, job.config.attribution.granularity)
    schedule = job.config.trajectory.schedule
    plan, reason = job.training.plan(folder, schedule, count, budget.passes)
    if plan.why_not is not None:
        raise UsageError(f"trajectory.schedule: {plan.schedule.kind} {plan.why_not}")
    return plan, reason


def _make_runs_folder(runs: Path) -> None:
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot keep runs in {runs}: {error.strerror}; give another folder with --runs-dir"
        ) from None
    sweep(runs)


def _prepare(
    staging: RunFolder, config: RunConfig, run_id: str, report: Reporter
) -> tuple[Job, Queries | None, Estimate, str]:
    report.phase(Phase.PREPARE, 1)
    job, documents = new_job(config, set_up_device())
    report.job = job
    queries = None if config.queries is None else read_queries(config.queries, job)
    plan, reason = _plan(job, queries, staging.path)
    write_job(staging, job, documents)
    staging.write_config(config, run_id, time.time())
    sync_tree(staging.path)
    return job, queries, plan, reason


def _compute(
    folder: RunFolder,
    job: Job,
    queries: Queries | None,
    planned: tuple[Estimate, str],
    report: Reporter,
) -> str | None:
    plan, reason = planned
    granularity = job.config.attribution.granularity
    stream = job.stream(granularity)
    kept = [*plan.schedule.checkpoints, plan.schedule.steps]
    report(Event.PLANNED, schedule=plan.schedule.kind, reason=reason, checkpoints=kept)
    report.phase(Phase.TRAIN, len(stream))
    job.trainer.train(
        job.start, stream, save_dir=folder.trajectory, schedule=plan.schedule, observer=report
    )
    if queries is None:
        return None
    return attribute(folder, job, queries, granularity, report)


def _stored(folder: RunFolder) -> Job:
    job = stored_job(folder, set_up_device())
    job.trainer.open(folder.trajectory)
    return job


def _requested(request: dict[str, Any], job: Job) -> Queries:
    reduction: Reduction = request.get("reduction") or "none"
    if request.get("texts"):
        return typed_queries(request["texts"], reduction, job)
    source = {**request["queries"], "reduction": reduction}
    return read_queries(QueriesConfig.model_validate(source), job)
