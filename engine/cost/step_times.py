"""How long the steps of a training take, and what a query costs in each, measured on a few.

Batches differ in width, so the gradient's time is measured on the narrowest, the widest and one of
the mean width, and on a query, and taken as a + b·n for n positions. A replayed step is measured
in its parts on the one of the mean width: what is linear in n takes the mean of all steps there.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engine.cost.checkpointing_choice import StepSeconds
from engine.replay.derivatives import needs_all_directions, second_derivatives
from engine.replay.state import Batch, Cotangent, TrainState
from engine.replay.train_step import TrainStep
from engine.training.data_stream import DataStream

PROBE_SECONDS = 2.0
"""One round of measuring is enough where steps take long; quick ones are measured again."""
MOST_ROUNDS = 5
FORWARD = 1 / 3
"""Of a gradient: its backward multiplies twice as many matrices."""


@dataclass(frozen=True)
class Line:
    """Seconds a + b·n of a gradient over n positions."""

    fixed: float
    each: float

    def at(self, size: float) -> float:
        """Seconds for so many positions."""
        return self.fixed + self.each * size


@dataclass(frozen=True)
class StepTimes:
    """What was measured."""

    step: StepSeconds
    gradient: Line

    def measuring(self, queries: Sequence[Batch]) -> float:
        """Seconds of every query's loss before and after training, and of its gradient."""
        return sum(self.gradient.at(_size(query)) * (1 + 2 * FORWARD) for query in queries)


def measure_steps(
    step: TrainStep, state: TrainState, stream: DataStream, queries: Sequence[Batch], together: int
) -> StepTimes:
    """Time a few steps from ``state``, at least six or seven steps' worth.

    Args:
        step: the step function.
        state: s_0.
        stream: the training's batches.
        queries: batches of what is asked, if anything is.
        together: queries that one group of ranks replays together.
    """
    sizes = stream.sizes()
    order = np.argsort(sizes, kind="stable")
    middle = int(np.abs(sizes[order] - sizes.mean()).argmin())
    narrow, wide = 0, len(order) - 1
    probe = _Probe(step, state, stream, sizes)
    began = time.perf_counter()
    for number in range(MOST_ROUNDS):
        # A neighbour each time: batches that were taken before are put together already.
        for place, inward in ((narrow, 1), (wide, -1), (middle, 1)):
            near = min(max(place + inward * number, 0), len(order) - 1)
            probe.train("middle" if place == middle else f"{place}", int(order[near]))
        probe.replay(int(order[min(middle + number, len(order) - 1)]), min(2, together))
        if queries:
            probe.query(max(queries, key=_size))
        if step.ranks.any(time.perf_counter() - began > PROBE_SECONDS):
            break
    return probe.found()


class _Probe:
    """Times parts of steps; each figure is the median of its rounds."""

    def __init__(
        self, step: TrainStep, state: TrainState, stream: DataStream, sizes: NDArray[np.int64]
    ) -> None:
        self.step = step
        self.of_step = sizes
        self.state = state
        self.stream = stream
        self.dtype = next(iter(state.params.values())).dtype
        self.device = next(iter(state.params.values())).device
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.sizes: dict[str, list[float]] = defaultdict(list)
        self.one_by_one = False

    def train(self, name: str, step: int) -> None:
        """A step as training takes it, and its update alone."""
        with self._timing(f"train {name}"):
            batch = self.stream.batch(step, self.dtype)
            _, grads, _ = self.step.advance(self.state, batch)
        with self._timing("update"):
            self.step.apply(self.state, grads)
        self.sizes[f"train {name}"].append(float(self.of_step[step]))

    def query(self, batch: Batch) -> None:
        """A query's gradient."""
        with self._timing("query"):
            self.step.derivative(self.state, batch)
        self.sizes["query"].append(float(_size(batch)))

    def replay(self, step: int, cotangents: int) -> None:
        """A replayed step in its parts."""
        batch, params = self.stream.batch(step, self.dtype), self.state.params
        _, grads = self.step.gradient(self.state, batch)
        stage, group = self.step.stage, self.step.ranks.shard_group
        self.one_by_one = not needs_all_directions(self.step.loss, len(self.step.parts(batch)))
        carried = [_random_cotangent(self.step, self.state) for _ in range(cotangents)]
        for count in range(1, cotangents + 1):
            with self._timing(f"stage {count}"):
                directions = stage.vjp(params, self.state.optimizer, grads.params, carried[:count])
            with self._timing(f"model {count}"), group.graph():
                for part in self.step.parts(batch):
                    second_derivatives(
                        self.step.loss,
                        self.state,
                        part,
                        directions,
                        [cotangent.params for cotangent in carried[:count]],
                        [cotangent.buffers for cotangent in carried[:count]],
                    )
                for cotangent in carried[:count]:
                    stage.norm(cotangent.params).item()

    def found(self) -> StepTimes:
        """The figures put together."""
        middle = {name: statistics.median(seconds) for name, seconds in self.seconds.items()}
        update = middle["update"]
        measured = {name: statistics.median(found) for name, found in self.sizes.items()}
        gradients = {name: middle[name] - update for name in measured if name != "query"}
        gradients = {name: max(seconds, 0.0) for name, seconds in gradients.items()}
        typical = gradients["train middle"]
        if "query" in measured:
            gradients["query"] = middle["query"]
        line = _fit([measured[name] for name in gradients], list(gradients.values()))
        mean = line.at(float(self.of_step.mean()))
        share = mean / max(typical, 1e-9)
        graph, query = _shared_and_each(middle, "model")
        stage, stage_query = _shared_and_each(middle, "stage")
        if self.one_by_one:
            # Every query's direction is worked out when its turn comes: nothing is shared.
            stage, stage_query = 0.0, middle["stage 1"]
        step = StepSeconds(mean, update, graph * share, query * share, stage, stage_query)
        return StepTimes(step, line)

    @contextmanager
    def _timing(self, name: str) -> Iterator[None]:
        began = self._now()
        yield
        self.seconds[name].append(self._now() - began)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _shared_and_each(seconds: dict[str, float], part: str) -> tuple[float, float]:
    """What queries share of a part of a replayed step, and what each adds, from one and two."""
    one = seconds[f"{part} 1"]
    each = min(max(seconds.get(f"{part} 2", one) - one, 0.0), one)
    return one - each, each


def _fit(sizes: list[float], seconds: list[float]) -> Line:
    """The line of least squares through the figures; neither part below 0."""
    if max(sizes) < 1.02 * min(sizes):
        return Line(0.0, sum(seconds) / sum(sizes))
    each, fixed = np.polyfit(sizes, seconds, 1)
    if each <= 0:
        return Line(float(np.mean(seconds)), 0.0)
    if fixed <= 0:
        return Line(0.0, float(np.dot(sizes, seconds) / np.dot(sizes, sizes)))
    return Line(float(fixed), float(each))


def _random_cotangent(step: TrainStep, state: TrainState) -> Cotangent:
    zeros = step.stage.zero_cotangent(state.params, state.optimizer)
    return Cotangent(
        {
            name: torch.randn_like(p, memory_format=torch.contiguous_format)
            for name, p in state.params.items()
        },
        zeros,
        {n: torch.randn_like(b) for n, b in state.buffers.items() if b.is_floating_point()},
    )


def _size(batch: Batch) -> int:
    """Positions of a query's batch."""
    ids = batch.inputs.get("input_ids")
    return int(batch.weights.shape[0] if ids is None else ids.numel())
