"""What a training will cost, measured on its own first step, and the schedule that follows."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from engine.checkpoints.planner import Costs, Estimate, Room, choose, estimate
from engine.contract.config import ScheduleName
from engine.magic.state import TrainState
from engine.magic.train_step import TrainStep
from engine.stream import DataStream

ASSUMED_STEP_SECONDS, ASSUMED_UPDATE_SECONDS = 1.0, 0.1
"""Where only sizes matter and nothing is measured."""
BYTES_PER_SECOND = 5e8
"""What a trajectory is assumed to be written and read at."""


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

    def plan(self, folder: Path, schedule: ScheduleName, queries: int = 1) -> tuple[Estimate, str]:
        """The schedule to train under and why; ``auto`` measures one step to decide."""
        room = self.room(folder)
        if schedule == "auto":
            return choose(self.measured_costs(queries), room)
        costs = self.costs(ASSUMED_STEP_SECONDS, ASSUMED_UPDATE_SECONDS, queries)
        return estimate(schedule, costs, room), "asked for"

    def room(self, folder: Path) -> Room:
        """What is free on the disk of ``folder`` and in the memory computed in."""
        return Room(shutil.disk_usage(folder).free, free_memory(self.device))

    def measured_costs(self, queries: int = 1, passes: int = 1) -> Costs:
        """Costs with the times of one real step, taken after one to warm up."""
        batch = self.stream.batch(0, next(iter(self.state.params.values())).dtype)
        self.step.gradient(self.state.params, batch)
        began = time.perf_counter()
        _, grads = self.step.gradient(self.state.params, batch)
        middle = time.perf_counter()
        self.step.apply(self.state, grads)
        end = time.perf_counter()
        return self.costs(end - began, end - middle, queries, passes)

    def costs(
        self, step_seconds: float, update_seconds: float, queries: int = 1, passes: int = 1
    ) -> Costs:
        """Costs with given times of a step and of its optimizer alone."""
        gradient = sum(p.numel() * p.element_size() for p in self.state.params.values())
        leaves = self.step.stage.state_tensors(self.state.optimizer)
        return Costs(
            steps=len(self.stream),
            state_bytes=gradient + sum(leaf.numel() * leaf.element_size() for leaf in leaves),
            gradient_bytes=gradient,
            step_seconds=step_seconds,
            update_seconds=update_seconds,
            bytes_per_second=BYTES_PER_SECOND,
            queries=queries,
            passes=passes,
        )


def free_memory(device: torch.device) -> int:
    """Bytes free on a device, or in this machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
