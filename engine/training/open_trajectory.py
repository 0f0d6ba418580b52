"""Where a training's trajectory goes: which schedule, and who of the ranks writes what of it."""

from pathlib import Path

from engine.cost.training_profile import TrainingProfile
from engine.replay.checkpointing import (
    CheckpointingKind,
    CheckpointingSchedule,
    checkpointing_schedule,
)
from engine.replay.replay import Observer
from engine.runs.config import CheckpointingName
from engine.runs.errors import RunError
from engine.runs.manifest import part_folder, parts_of, read_manifest, read_part
from engine.trajectory.host_cache import HostCache
from engine.trajectory.null_writer import NullWriter
from engine.trajectory.writer import TrajectoryWriter

Keeper = TrajectoryWriter | NullWriter


def settle_schedule(
    training: TrainingProfile,
    folder: Path,
    asked: CheckpointingSchedule | CheckpointingName,
    observer: Observer,
    resume: bool,
) -> CheckpointingSchedule:
    """The schedule asked for, planned, or of the trajectory in ``folder`` to go on with.

    The observer receives ``planned`` if it was planned.

    Raises:
        RunError: if it does not fit, or there is a trajectory and it is not to be gone on with.
    """
    ranks = training.step.ranks
    folder.mkdir(parents=True, exist_ok=True)
    found = read_manifest(folder)
    # Nobody writes before everybody has looked.
    ranks.barrier()
    if found is not None and not resume:
        raise RunError(
            f"{folder} already holds a trajectory; give another folder, or go on with this "
            "one: control=TrainControl(resume=True)"
        )
    if isinstance(asked, CheckpointingSchedule):
        return asked
    if found is not None:
        kind: CheckpointingKind = found.kind  # type: ignore[assignment]
        return checkpointing_schedule(kind, len(training.stream))
    # Each measures its own times; those of the first rank decide for all.
    plan, reason = ranks.all_gather(training.plan(folder, asked))[0]
    if plan.why_not is not None:
        raise RunError(f"schedule {plan.schedule.kind} {plan.why_not}")
    kept = [*plan.schedule.checkpoints, plan.schedule.steps]
    observer("planned", schedule=plan.schedule.kind, reason=reason, checkpoints=kept)
    return plan.schedule


def keeper_of(
    training: TrainingProfile,
    folder: Path,
    schedule: CheckpointingSchedule,
    observer: Observer,
    save_seconds: float,
    tier: HostCache,
) -> Keeper:
    """Who keeps this rank's part of a trajectory: itself, in the first group of ranks.

    Raises:
        RunError: if the folder holds a trajectory that other parts were made of.
    """
    step, ranks, group = training.step, training.step.ranks, training.step.ranks.shard_group
    parts, part = parts_of(folder), part_folder(folder, group.index, group.count)
    if part not in parts and any(read_part(other) is not None for other in parts):
        raise RunError(
            f"{folder} was begun by {len(parts)} ranks that divide the model; go on with as many"
        )
    if ranks.replica_index == 0:
        stream = training.stream.digests()
        return TrajectoryWriter(part, schedule, step.stage, observer, save_seconds, tier, stream)
    return NullWriter(part, schedule, ranks)
