"""What a training will cost, measured on its own first step, and the schedule that follows."""

import os
import shutil
import statistics
import tempfile
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

PROBE_BYTES = 2**24
"""Written to time the disk."""


@dataclass(frozen=True)
class Times:
    """Seconds of a step, of its optimizer alone, and of the disk."""

    step: float = 1.0
    update: float = 0.1
    byte: float = 2e-9
    file: float = 1e-3


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

    def plan(
        self, folder: Path, schedule: ScheduleName, queries: int = 1, passes: int = 1
    ) -> tuple[Estimate, str]:
        """The schedule to train under and why; ``auto`` measures a step and the disk to decide."""
        room = self.room(folder)
        if schedule == "auto":
            return choose(self.costs(self.measured(folder), queries, passes), room)
        return estimate(schedule, self.costs(Times(), queries, passes), room), "asked for"

    def room(self, folder: Path) -> Room:
        """What is free on the disk of ``folder`` and in the memory computed in."""
        return Room(shutil.disk_usage(folder).free, free_memory(self.device))

    def measured(self, folder: Path) -> Times:
        """Times of real steps at s_0, each the median of three after one to warm up."""
        batch = self.stream.batch(0, next(iter(self.state.params.values())).dtype)
        _, grads = self.step.gradient(self.state, batch)
        self.step.apply(self.state, grads)
        gradients, updates = [], []
        for _ in range(3):
            began = time.perf_counter()
            _, grads = self.step.gradient(self.state, batch)
            middle = time.perf_counter()
            self.step.apply(self.state, grads)
            gradients.append(middle - began)
            updates.append(time.perf_counter() - middle)
        update = statistics.median(updates)
        small, large = _write_seconds(folder, 1), _write_seconds(folder, PROBE_BYTES)
        return Times(
            step=statistics.median(gradients) + update,
            update=update,
            byte=max(1e-11, (large - small) / PROBE_BYTES),
            file=small,
        )

    def costs(self, times: Times, queries: int = 1, passes: int = 1) -> Costs:
        """Costs of this training with given times."""
        of_model = [*self.state.params.values(), *self.state.buffers.values()]
        gradient = sum(tensor.numel() * tensor.element_size() for tensor in of_model)
        leaves = self.step.stage.state_tensors(self.state.optimizer).values()
        return Costs(
            steps=len(self.stream),
            state_bytes=gradient + sum(leaf.numel() * leaf.element_size() for leaf in leaves),
            gradient_bytes=gradient,
            step_seconds=times.step,
            update_seconds=times.update,
            bytes_per_second=1 / times.byte,
            file_seconds=times.file,
            queries=queries,
            passes=passes,
        )


def _write_seconds(folder: Path, size: int) -> float:
    """The median time of making a file of ``size`` bytes durable; none stays."""
    data, seconds = os.urandom(size), []
    for _ in range(3):
        began = time.perf_counter()
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def free_memory(device: torch.device) -> int:
    """Bytes free on a device, or in this machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
