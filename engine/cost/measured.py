"""The values that the cost model measures of a training before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Line:
    """Seconds a + b·n, neither coefficient below 0."""

    fixed: float
    each: float

    def at(self, size: float) -> float:
        """Seconds at n = ``size``."""
        return self.fixed + self.each * size


def fit_line(sizes: Sequence[float], seconds: Sequence[float]) -> Line:
    """The least-squares line through measured seconds, with neither coefficient below 0."""
    if max(sizes) < 1.02 * min(sizes):
        return Line(0.0, sum(seconds) / sum(sizes))
    each, fixed = np.polyfit(sizes, seconds, 1)
    if each <= 0:
        return Line(float(np.mean(seconds)), 0.0)
    if fixed <= 0:
        return Line(0.0, float(np.dot(sizes, seconds) / np.dot(sizes, sizes)))
    return Line(float(fixed), float(each))


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of the parts of a step, means over the steps of a training."""

    gradient: float
    """Batch, loss and gradient of a training step."""
    update: float
    """The optimizer's update."""
    graph: float
    """Replay: building the gradient's graph, which all queries of a pass share."""
    query: float
    """Replay: the VJP of the gradient for one query."""
    optimizer: float
    """Replay: the part of the optimizer's VJP that all queries share."""
    optimizer_query: float
    """Replay: the part of the optimizer's VJP for one query."""

    @property
    def train(self) -> float:
        """A training step."""
        return self.gradient + self.update

    def replay(self, queries: float) -> float:
        """A replayed step of ``queries`` queries, given its state and gradient."""
        return self.graph + self.optimizer + queries * (self.query + self.optimizer_query)


@dataclass(frozen=True)
class DiskSeconds:
    """Seconds of writing and reading a trajectory's files."""

    byte: float
    """Writing a byte durably with its checksum."""
    byte_work: float
    """The part of ``byte`` that delays a concurrent training, because it uses its processor."""
    read_byte: float
    """Reading and verifying a byte."""
    file: float
    """Making a file durable, besides its bytes."""


@dataclass(frozen=True)
class MeasuredSeconds:
    """All measured times of a training."""

    step: StepSeconds
    disk: DiskSeconds
    query: float
    """Evaluating one query: its loss before and after training, and its gradient."""


@dataclass(frozen=True)
class TrainingCosts:
    """What one training step costs, and how many steps there are."""

    steps: int
    state_bytes: int
    """File size of one rank's train state."""
    gradient_bytes: int
    """File size of one rank's gradient."""
    writers: int
    """Ranks that write files of these sizes: those of one shard group."""
    seconds: MeasuredSeconds | None
    """None if no times were measured."""


@dataclass(frozen=True)
class FreeSpace:
    """Free bytes on the runs' disk and in the memory of the computing device."""

    disk: int
    memory: int


def size_text(count: float) -> str:
    """A number of bytes in words, for example "1.5 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
