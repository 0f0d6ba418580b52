"""What a config would take in time, memory and disk, measured before anything starts."""

import os
import time
from pathlib import Path
from typing import Any

import psutil

from engine.attribution.budget import with_micro_batch
from engine.attribution.device import set_up_device
from engine.attribution.findings import flat_start
from engine.attribution.prediction import Prediction, predict, scores_bytes
from engine.attribution.prepare import (
    derivative_facts,
    derivative_warnings,
    prepare_run,
    warnings_of,
)
from engine.attribution.queries import read_queries
from engine.cost.checkpointing_choice import KINDS, Estimate, estimate
from engine.distributed.rank_setup import join
from engine.runs.config import RunConfig


def plan(config: RunConfig, runs: Path) -> dict[str, Any]:
    """Prepare a config as a run would, time some steps, and estimate every schedule.

    Times are seconds, sizes bytes. Nothing is written.
    """
    device = set_up_device()
    job, documents = prepare_run(config, device, join(device))
    job, micro_batch_reason = with_micro_batch(job)
    queries = None if config.queries is None else read_queries(config.queries, job)
    found = predict(job, queries, _existing(runs), is_plan=True)
    options = [estimate(kind, found.costs, found.room) for kind in KINDS]
    of_queries = [] if queries is None else queries.warnings(config)
    advice = [] if found.budget.advice is None else [found.budget.advice]
    advice += [finding.message for finding in flat_start(job)]
    return {
        "steps": found.costs.steps,
        "rows": len(job.rows),
        "documents": len(documents),
        "parameters": sum(p.numel() for p in job.start.params.values()),
        "frozen_parameters": job.model.frozen,
        "queries": found.queries,
        "queries_per_pass": found.budget.queries_per_pass,
        "passes": found.budget.passes,
        "micro_batch_size": job.trainer.step.micro_batch_size,
        "micro_batch_reason": micro_batch_reason,
        "device": device.type,
        # This very process did what a run does before its first step.
        "prepare_seconds": time.time() - psutil.Process(os.getpid()).create_time(),
        "step_seconds": found.costs.step.train,
        "schedules": [_as_facts(option, found) for option in options],
        "chosen": found.chosen.schedule.kind,
        "reason": found.reason,
        "scores_bytes": scores_bytes(job, found.queries),
        "free_disk": found.room.disk,
        "free_memory": found.room.memory,
        "free_host_memory": psutil.virtual_memory().available,
        "data": documents.facts,
        "queries_cut": {} if queries is None else queries.facts().get("cut", {}),
        "derivative": derivative_facts(job),
        "warnings": [
            *warnings_of(config),
            *derivative_warnings(job),
            *documents.warnings,
            *of_queries,
            *advice,
        ],
    }


def _as_facts(option: Estimate, found: Prediction) -> dict[str, Any]:
    peak = found.peak(option)
    assert peak is not None
    return {
        "name": option.schedule.kind,
        "disk_bytes": option.disk_bytes,
        "memory_bytes": peak.device,
        "host_memory_bytes": peak.host,
        "train_seconds": option.train_seconds,
        "replay_seconds": option.replay_seconds if found.queries else 0.0,
        "fits": option.why_not is None,
        "why_not": option.why_not,
    }


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
