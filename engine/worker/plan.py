"""``magic plan``: what a config costs in time, memory and disk, measured before training."""

import os
import time
from pathlib import Path
from typing import Any

import psutil

from engine.attribution.device import set_up_device
from engine.attribution.findings import flat_start
from engine.attribution.prediction import METADATA_BYTES, Prediction, predict, with_micro_batch
from engine.attribution.prepare import (
    derivative_facts,
    derivative_warnings,
    prepare_run,
    warnings_of,
)
from engine.attribution.queries import read_queries
from engine.cost.checkpointing_choice import KINDS, estimate
from engine.distributed.rank_setup import join
from engine.replay.checkpointing import CheckpointingKind
from engine.runs.config import RunConfig


def plan(config: RunConfig, runs: Path) -> dict[str, Any]:
    """Prepare a config as a run does, time a few steps, and estimate every checkpointing.

    Times are in seconds, sizes in bytes. Nothing is written.

    Raises:
        UsageError: if the config, its data or its model is invalid, or the free memory cannot hold
            the replay of a single query.
    """
    device = set_up_device()
    prepared, documents = prepare_run(config, device, join(device))
    prepared, micro_batch_reason = with_micro_batch(prepared)
    queries = None if config.queries is None else read_queries(config.queries, prepared)
    prediction = predict(prepared, queries, _existing_folder(runs), is_plan=True)
    costs, free, passes = prediction.costs, prediction.free, prediction.chosen_passes
    assert costs.training.seconds is not None
    return {
        "steps": costs.training.steps,
        "rows": len(prepared.rows),
        "documents": len(documents),
        "parameters": sum(p.numel() for p in prepared.start.params.values()),
        "frozen_parameters": prepared.model.frozen,
        "queries": prediction.queries,
        "queries_per_pass": passes.per_pass,
        "passes": passes.passes,
        "micro_batch_size": prepared.trainer.step.micro_batch_size,
        "micro_batch_reason": micro_batch_reason,
        "device": device.type,
        # This process has done what a run does before its first step.
        "prepare_seconds": time.time() - psutil.Process(os.getpid()).create_time(),
        "step_seconds": costs.training.seconds.step.train,
        "schedules": [_option(kind, prediction) for kind in KINDS],
        "chosen": prediction.chosen.schedule.kind,
        "reason": prediction.reason,
        "scores_bytes": METADATA_BYTES + prediction.queries * costs.score_bytes,
        "free_disk": free.disk,
        "free_memory": free.memory,
        "free_host_memory": psutil.virtual_memory().available,
        "data": documents.facts,
        "queries_cut": {} if queries is None else queries.facts().get("cut", {}),
        "derivative": derivative_facts(prepared),
        "warnings": [
            *warnings_of(config),
            *derivative_warnings(prepared),
            *documents.warnings,
            *([] if queries is None else queries.warnings(config)),
            *filter(None, [costs.limits.advice]),
            *(finding.message for finding in flat_start(prepared)),
        ],
    }


def _option(kind: CheckpointingKind, prediction: Prediction) -> dict[str, Any]:
    """One row of the plan's table."""
    training, passes = prediction.costs.training, prediction.passes[kind]
    option = estimate(kind, training, passes, prediction.free)
    peak = prediction.peak(option)
    assert peak is not None
    return {
        "name": kind,
        "disk_bytes": option.disk_bytes,
        "memory_bytes": peak.device,
        "host_memory_bytes": peak.host,
        "train_seconds": option.train_seconds,
        "replay_seconds": option.replay_seconds if prediction.queries else 0.0,
        "fits": option.shortfall is None,
        "shortfall": option.shortfall,
    }


def _existing_folder(path: Path) -> Path:
    """The nearest existing parent of the runs folder, which lies on the same disk."""
    while not path.exists():
        path = path.parent
    return path
