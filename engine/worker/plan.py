"""What a config would take in time, memory and disk, measured before anything starts."""

from pathlib import Path
from typing import Any

from engine.checkpoints.planner import KINDS, choose, estimate
from engine.contract.config import RunConfig
from engine.worker.budget import budget_of
from engine.worker.device import set_up_device
from engine.worker.job import new_job, warnings_of
from engine.worker.mesh import join
from engine.worker.queries import read_queries


def plan(config: RunConfig, runs: Path) -> dict[str, Any]:
    """Prepare a config as a run would, measure one training step, and estimate every schedule.

    Times are seconds, sizes bytes. Nothing is written.
    """
    device = set_up_device()
    job, documents = new_job(config, device, join(device))
    granularity = config.attribution.granularity
    queries = None if config.queries is None else read_queries(config.queries, job)
    folder = _existing(runs)
    budget = budget_of(job, queries.measurements if queries else 1, granularity)
    costs = job.training.costs(
        job.training.measured(folder), queries.measurements if queries else 1, budget.passes
    )
    room = job.training.room(folder)
    options = [estimate(kind, costs, room) for kind in KINDS]
    chosen, reason = choose(costs, room)
    if config.trajectory.schedule != "auto":
        chosen = next(o for o in options if o.schedule.kind == config.trajectory.schedule)
        reason = chosen.why_not or "asked for"
    return {
        "steps": costs.steps,
        "rows": len(job.rows),
        "documents": len(documents),
        "parameters": sum(p.numel() for p in job.start.params.values()),
        "frozen_parameters": job.model.frozen,
        "queries": queries.measurements if queries else 0,
        "queries_per_pass": budget.queries_per_pass,
        "passes": budget.passes,
        "query_tolerance": config.attribution.query_tolerance,
        "step_seconds": costs.step_seconds,
        "schedules": [
            {
                "name": option.schedule.kind,
                "disk_bytes": option.disk_bytes,
                "memory_bytes": option.memory_bytes + budget.bytes,
                "train_seconds": option.train_seconds,
                "replay_seconds": option.replay_seconds if queries else 0.0,
                "fits": option.why_not is None,
                "why_not": option.why_not,
            }
            for option in options
        ],
        "chosen": chosen.schedule.kind,
        "reason": reason,
        "free_disk": room.disk,
        "free_memory": room.memory,
        "warnings": warnings_of(config),
    }


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
