"""Measure the seconds of a training's steps, and of their replay, on a few of them.

Batches differ in width. The gradient is therefore timed on the narrowest batch, on the widest, on
one of the mean width, and on a query, and fitted as a + b·n for n tokens. The parts of a replayed
step are timed on the batch of mean width and scaled to the mean over all steps.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from engine.cost.measured import Line, StepSeconds, fit_line
from engine.replay.derivatives import needs_all_directions, second_derivatives
from engine.replay.state import Batch, Cotangent, TrainState
from engine.replay.train_step import TrainStep

ROUND_SECONDS = 2.0
"""Measuring ends after the round in which this much time has passed."""
MAX_ROUNDS = 5
FORWARD_SHARE = 1 / 3
"""Share of a gradient's time that the loss alone takes: backward has twice the matrix products."""


class StepBatches(Protocol):
    """The batches of a training by step."""

    def __len__(self) -> int:
        """The number of steps."""

    def sizes(self) -> NDArray[np.int64]:
        """(step,): tokens of every batch with its padding."""

    def batch(self, step: int, dtype: torch.dtype = ...) -> Batch:
        """The batch of a step."""


@dataclass(frozen=True)
class StepTimes:
    """The measured times."""

    step: StepSeconds
    gradient: Line
    """Seconds of a gradient over n tokens."""

    def evaluation(self, queries: Sequence[Batch]) -> float:
        """Seconds of evaluating queries: losses before and after training, and gradients."""
        return sum(self.gradient.at(_tokens(query)) * (1 + 2 * FORWARD_SHARE) for query in queries)


def measure_steps(
    step: TrainStep, state: TrainState, stream: StepBatches, queries: Sequence[Batch], together: int
) -> StepTimes:
    """Time a few steps from ``state``; takes at least as long as six or seven steps.

    Args:
        step: the step function.
        state: s_0.
        stream: the training's batches.
        queries: the batches of the queries, if there are any.
        together: queries that one replica replays together.
    """
    sizes = stream.sizes()
    order = np.argsort(sizes, kind="stable")
    middle = int(np.abs(sizes[order] - sizes.mean()).argmin())
    narrow, wide = 0, len(order) - 1
    probe = _Probe(step, state, stream, sizes)
    began = time.perf_counter()
    for number in range(MAX_ROUNDS):
        # Every round uses the next batch of about the same width: a repeated batch is cached.
        for index, inward in ((narrow, 1), (wide, -1), (middle, 1)):
            near = min(max(index + inward * number, 0), len(order) - 1)
            probe.train("middle" if index == middle else f"{index}", int(order[near]))
        probe.replay(int(order[min(middle + number, len(order) - 1)]), min(2, together))
        if queries:
            probe.query(max(queries, key=_tokens))
        if step.ranks.any(time.perf_counter() - began > ROUND_SECONDS):
            break
    return probe.result()


class _Probe:
    """Times the parts of steps. Every result is the median of its rounds."""

    def __init__(
        self, step: TrainStep, state: TrainState, stream: StepBatches, sizes: NDArray[np.int64]
    ) -> None:
        self.step = step
        self.step_sizes = sizes
        self.state = state
        self.stream = stream
        self.dtype = next(iter(state.params.values())).dtype
        self.device = next(iter(state.params.values())).device
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.sizes: dict[str, list[float]] = defaultdict(list)
        self.one_by_one = False

    def train(self, name: str, step: int) -> None:
        """Time a training step, and its update alone."""
        with self._timing(f"train {name}"):
            batch = self.stream.batch(step, self.dtype)
            _, grads, _ = self.step.advance(self.state, batch)
        with self._timing("update"):
            self.step.apply(self.state, grads)
        self.sizes[f"train {name}"].append(float(self.step_sizes[step]))

    def query(self, batch: Batch) -> None:
        """Time a query's gradient."""
        with self._timing("query"):
            self.step.derivative(self.state, batch)
        self.sizes["query"].append(float(_tokens(batch)))

    def replay(self, step: int, queries: int) -> None:
        """Time the parts of a replayed step for 1 … ``queries`` random cotangents."""
        batch, params = self.stream.batch(step, self.dtype), self.state.params
        _, grads = self.step.gradient(self.state, batch)
        stage, group = self.step.stage, self.step.ranks.shard_group
        self.one_by_one = not needs_all_directions(self.step.loss, len(self.step.parts(batch)))
        cotangents = [_random_cotangent(self.step, self.state) for _ in range(queries)]
        for count in range(1, queries + 1):
            own = cotangents[:count]
            with self._timing(f"optimizer {count}"):
                directions = stage.vjp(params, self.state.optimizer, grads.params, own)
            with self._timing(f"model {count}"), group.graph():
                for part in self.step.parts(batch):
                    second_derivatives(
                        self.step.loss,
                        self.state,
                        part,
                        directions,
                        [cotangent.params for cotangent in own],
                        [cotangent.buffers for cotangent in own],
                    )
                for cotangent in own:
                    stage.norm(cotangent.params).item()

    def result(self) -> StepTimes:
        """Combine the measurements."""
        seconds = {name: statistics.median(values) for name, values in self.seconds.items()}
        update = seconds["update"]
        sizes = {name: statistics.median(values) for name, values in self.sizes.items()}
        gradients = {name: seconds[name] - update for name in sizes if name != "query"}
        gradients = {name: max(value, 0.0) for name, value in gradients.items()}
        middle = gradients["train middle"]
        if "query" in sizes:
            gradients["query"] = seconds["query"]
        line = fit_line([sizes[name] for name in gradients], list(gradients.values()))
        mean = line.at(float(self.step_sizes.mean()))
        scale = mean / max(middle, 1e-9)
        graph, query = _shared_and_each(seconds, "model")
        optimizer, optimizer_query = _shared_and_each(seconds, "optimizer")
        if self.one_by_one:
            # Every query's direction is computed separately: nothing is shared.
            optimizer, optimizer_query = 0.0, seconds["optimizer 1"]
        step = StepSeconds(mean, update, graph * scale, query * scale, optimizer, optimizer_query)
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
    """The time that queries share and the time that each adds, from runs with one and two."""
    one = seconds[f"{part} 1"]
    each = min(max(seconds.get(f"{part} 2", one) - one, 0.0), one)
    return one - each, each


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


def _tokens(batch: Batch) -> int:
    """Tokens of a query's batch."""
    ids = batch.inputs.get("input_ids")
    return int(batch.weights.shape[0] if ids is None else ids.numel())
