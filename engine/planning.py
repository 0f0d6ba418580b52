"""What a training will cost, measured on a few of its own steps, and the schedule that follows."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from engine.checkpoints.disk_speed import measure_disk
from engine.checkpoints.planner import (
    Asked,
    Costs,
    DiskSeconds,
    Estimate,
    Room,
    StepSeconds,
    choose,
    wants_times,
)
from engine.checkpoints.tensor_files import encoded_bytes
from engine.checkpoints.trajectory_reader import gradient_tensors, state_tensors
from engine.contract.config import ScheduleName
from engine.magic.state import Batch, Gradient, TrainState
from engine.magic.train_step import TrainStep
from engine.step_times import measure_steps
from engine.stream import DataStream


@dataclass(frozen=True)
class Training:
    """A training that is about to start."""

    step: TrainStep
    state: TrainState
    stream: DataStream

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(iter(self.state.params.values())).device

    def plan(self, folder: Path, schedule: ScheduleName) -> tuple[Estimate, str]:
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
            writers=self.step.ranks.group.count,
            step=step or StepSeconds(),
            disk=disk or DiskSeconds(),
            asked=asked or Asked(),
        )


def free_memory(device: torch.device) -> int:
    """Bytes free on a device, or in this machine's memory."""
    if device.type == "cuda":
        # The driver counts what torch keeps to give out again as taken.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + kept)
    return int(psutil.virtual_memory().available)
