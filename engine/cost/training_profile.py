"""What a training will cost, measured on a few of its own steps, and the schedule that follows."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from engine.cost.checkpointing_choice import (
    Asked,
    Costs,
    DiskSeconds,
    Estimate,
    Room,
    StepSeconds,
    choose,
    wants_times,
)
from engine.cost.disk_speed import measure_disk
from engine.cost.step_times import measure_steps
from engine.distributed.rank_setup import free_memory
from engine.replay.state import Batch, Gradient, TrainState
from engine.replay.train_step import TrainStep
from engine.runs.config import CheckpointingName
from engine.training.data_stream import DataStream
from engine.trajectory.reader import gradient_tensors, state_tensors
from engine.trajectory.tensor_files import encoded_bytes


@dataclass(frozen=True)
class TrainingProfile:
    """A training that is about to start."""

    step: TrainStep
    state: TrainState
    stream: DataStream

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(iter(self.state.params.values())).device

    def plan(self, folder: Path, schedule: CheckpointingName) -> tuple[Estimate, str]:
        """The schedule to train under and why; measures steps and the disk if that decides."""
        times = wants_times(schedule, len(self.stream))
        costs = self.measured(folder) if times else self.costs()
        return choose(costs, self.room(folder), schedule)

    def room(self, folder: Path) -> Room:
        """What is free on the disk of ``folder`` and in the memory computed in."""
        return Room(shutil.disk_usage(folder).free, free_memory(self.device))

    def measured(
        self, folder: Path, asked: Asked | None = None, queries: Sequence[Batch] = ()
    ) -> Costs:
        """Costs with the times of real steps and of the disk of ``folder``."""
        asked = asked or Asked()
        times = measure_steps(self.step, self.state, self.stream, queries, asked.per_group)
        asked = replace(asked, measure_seconds=times.measuring(queries))
        disk = measure_disk(folder, self.costs().state_bytes, self.device)
        return self.costs(times.step, disk, asked)

    def costs(
        self,
        step: StepSeconds | None = None,
        disk: DiskSeconds | None = None,
        asked: Asked | None = None,
    ) -> Costs:
        """Costs of this training; bytes alone are right without times."""
        gradient = Gradient(self.state.params, self.state.buffers)
        return Costs(
            steps=len(self.stream),
            state_bytes=encoded_bytes(state_tensors(self.state, self.step.stage)),
            gradient_bytes=encoded_bytes(gradient_tensors(gradient)),
            writers=self.step.ranks.shard_group.count,
            step=step or StepSeconds(),
            disk=disk or DiskSeconds(),
            asked=asked or Asked(),
        )
