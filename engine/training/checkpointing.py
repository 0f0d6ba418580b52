"""Planning the checkpointing of a training before its first step."""

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
from engine.runs.manifest import read_manifest


def plan_checkpointing(
    training: TrainingProfile,
    folder: Path,
    checkpointing: CheckpointingSchedule | CheckpointingName,
    observer: Observer,
    resume: bool,
) -> CheckpointingSchedule:
    """The schedule of a training that writes its trajectory to ``folder``.

    A :class:`CheckpointingSchedule` is returned as it is, and a trajectory to resume keeps its
    own. Otherwise the cost model resolves the name, and the observer receives ``planned``.

    Raises:
        RunError: if the schedule does not fit on the disk or in memory, or if ``folder`` already
            holds a trajectory and ``resume`` is False.
    """
    ranks = training.step.ranks
    folder.mkdir(parents=True, exist_ok=True)
    existing = read_manifest(folder)
    # No rank may write before all ranks have looked.
    ranks.barrier()
    if existing is not None and not resume:
        raise RunError(
            f"{folder} already holds a trajectory; give another folder, or resume this one: "
            "control=TrainControl(resume=True)"
        )
    if isinstance(checkpointing, CheckpointingSchedule):
        return checkpointing
    if existing is not None:
        kind: CheckpointingKind = existing.kind  # type: ignore[assignment]
        return checkpointing_schedule(kind, len(training.stream))
    # Measured times differ between ranks; the first rank's decide.
    plan, reason = ranks.all_gather(training.plan(folder, checkpointing))[0]
    if plan.shortfall is not None:
        raise RunError(f"checkpointing {plan.schedule.kind} {plan.shortfall}")
    checkpoints = [*plan.schedule.checkpoints, plan.schedule.steps]
    observer("planned", checkpointing=plan.schedule.kind, reason=reason, checkpoints=checkpoints)
    return plan.schedule
