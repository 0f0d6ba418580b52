"""Training that keeps its trajectory, and the replay that turns it into scores.

The worker of ``magic run`` and a notebook use the same class:

    trainer, state = Trainer.initialize(model, torchopt.adamw(1e-4, eps_root=1e-8))
    state = trainer.train(state, stream, save_dir="trajectory")
    scores = trainer.backward("trajectory", stream, queries)
"""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torchopt.base import GradientTransformation

from engine.checkpoints.trajectory import TrajectoryReader, TrajectoryWriter
from engine.contract.config import Reduction, ScheduleName
from engine.contract.errors import RunError
from engine.magic.observer import Observer, ignore
from engine.magic.optimizer_stage import OptimizerStage, global_norm
from engine.magic.replay import DivergedError, Replay
from engine.magic.schedule import Schedule
from engine.magic.state import Batch, Cotangent, Params, TrainState
from engine.magic.train_step import TrainStep
from engine.models.module_loss import ModuleLoss
from engine.planning import Training
from engine.stream import DataStream

Measurement = Sequence[Batch]
"""φ as a sum of batch losses; the batches' weights and denominators carry its coefficients."""


@dataclass(frozen=True)
class Scores:
    """∂φ/∂w for every measurement: negative is helpful, positive harmful.

    ``weights`` is (query, *shape of the stream's weights), ``steps`` (query, step) holds the sum
    over each step, ``measurements`` (query,) the φ themselves at the end of training.
    """

    weights: Tensor
    steps: Tensor
    measurements: Tensor


class Trainer:
    """Trains one torch module with one torchopt optimizer, and replays what it trained."""

    def __init__(self, loss: ModuleLoss, step: TrainStep, template: Params) -> None:
        """Use :meth:`initialize` instead."""
        self.loss = loss
        self.step = step
        first = next(iter(template.values()))
        self.dtype, self.device = first.dtype, first.device
        # Shapes are all that is needed of s_0 from here on.
        self._template = {name: tensor.to("meta") for name, tensor in template.items()}

    @classmethod
    def initialize(
        cls,
        model: nn.Module,
        optimizer: GradientTransformation,
        *,
        micro_batch_size: int | None = None,
        max_grad_norm: float | None = None,
        elementwise: bool = False,
        dropout_seed: int | None = None,
    ) -> tuple["Trainer", TrainState]:
        """A trainer and the train state s_0 at the model's present parameters.

        Args:
            model: any module that :class:`~engine.models.module_loss.ModuleLoss` accepts; it is
                not changed.
            optimizer: a torchopt chain.
            micro_batch_size: rows differentiated at a time.
            max_grad_norm: clip by global norm, inside the differentiated step.
            elementwise: the optimizer treats every element alone, as Adam(W) and SGD do; lets
                it run in cache-sized pieces.
            dropout_seed: if the model draws random numbers, the seed that makes them a function
                of the step.
        """
        loss = ModuleLoss(model, dropout_seed)
        params = loss.parameters()
        if not params:
            raise ValueError(f"{type(model).__name__} has no parameter that requires a gradient")
        stage = OptimizerStage(
            optimizer, params, elementwise=elementwise, max_grad_norm=max_grad_norm
        )
        trainer = cls(loss, TrainStep(loss, stage, micro_batch_size), params)
        return trainer, trainer.step.start(params)

    def train(
        self,
        state: TrainState,
        stream: DataStream,
        *,
        save_dir: Path | str | None = None,
        schedule: Schedule | ScheduleName = "auto",
        observer: Observer = ignore,
    ) -> TrainState:
        """Train through the whole stream; returns s_T.

        Args:
            state: s_0.
            stream: the batches.
            save_dir: where to keep the trajectory; it is not kept if left out.
            schedule: what to keep of it; a name is planned first, and refused if it won't fit.
            observer: receives ``planned``, ``train_step`` and ``checkpoint``.

        Raises:
            DivergedError: if the loss or the gradient stops being finite.
            RunError: if the trajectory cannot be written.
        """
        with self._writer(state, stream, save_dir, schedule, observer) as writer:
            if writer is not None:
                writer.take_state(state)
            for step in range(len(stream)):
                began = time.perf_counter()
                # Bound to the same name, so that s_t is freed once s_{t+1} is there.
                state, grads, report = self.step.advance(state, stream.batch(step, self.dtype))
                for what, value in (("loss", report.loss), ("gradient", report.gradient_norm)):
                    if not math.isfinite(value):
                        raise DivergedError(what, step)
                if writer is not None:
                    writer.take_gradient(step, grads)
                    writer.take_state(state)
                observer(
                    "train_step",
                    step=step,
                    loss=report.loss,
                    gradient_norm=report.gradient_norm,
                    seconds=time.perf_counter() - began,
                )
            if not math.isfinite(global_norm(state.params).item()):
                raise DivergedError("trained model", len(stream))
        return state

    def backward(
        self,
        save_dir: Path | str,
        stream: DataStream,
        queries: DataStream | Sequence[Measurement],
        *,
        reduction: Reduction = "none",
        queries_per_pass: int | None = None,
        observer: Observer = ignore,
    ) -> Scores:
        """Replay a kept trajectory: the derivative of every measurement in every data weight.

        Args:
            save_dir: the trajectory.
            stream: the stream it was trained on.
            queries: rows to measure the mean loss of, or measurements.
            reduction: for a stream: ``none``, one measurement a row; ``mean`` or ``sum``, one
                for all rows.
            queries_per_pass: measurements that share one replay; all if left out.
            observer: receives the facts of :class:`~engine.magic.replay.Replay`.

        Raises:
            DivergedError: if a cotangent stops being finite.
            RunError: if the trajectory is missing or damaged.
        """
        measurements = (
            measurements_of(queries, reduction, self.dtype)
            if isinstance(queries, DataStream)
            else queries
        )
        reader = self.open(save_dir)
        if reader.schedule.steps != len(stream):
            raise RunError(
                f"{save_dir} was trained for {reader.schedule.steps} steps, but the stream has "
                f"{len(stream)}; give the stream it was trained on"
            )
        scores = stream.new_scores(len(measurements), self.dtype)
        steps = torch.zeros(len(measurements), len(stream), dtype=torch.float64)
        values = torch.zeros(len(measurements), dtype=torch.float64)
        replay = Replay(
            self.step,
            reader,
            lambda step: stream.batch(step, self.dtype),
            reader.schedule,
            observer,
        )
        size = queries_per_pass or max(1, len(measurements))
        for first in range(0, len(measurements), size):
            chosen = slice(first, first + size)

            def take(step: int, pulled: Tensor, chosen: slice = chosen) -> None:
                stream.collect(scores[chosen], step, pulled)
                steps[chosen, step] = pulled.flatten(1).double().sum(1).cpu()

            values[chosen], cotangents = self._measure_all(reader, measurements[chosen])
            replay.run(cotangents, take)
        return Scores(scores, steps, values)

    def measure(self, state: TrainState, measurement: Measurement) -> tuple[float, Cotangent]:
        """φ and its derivative in the train state."""
        value, total = 0.0, None
        with self.loss.evaluating():
            for batch in measurement:
                part, grads = self.step.gradient(state.params, batch)
                value += part
                total = grads if total is None else {n: g.add_(grads[n]) for n, g in total.items()}
        if total is None or not math.isfinite(value):
            raise DivergedError("query's loss", state.step)
        zeros = self.step.stage.zero_cotangent(state.params, state.optimizer)
        return value, Cotangent(total, zeros)

    def _measure_all(
        self, reader: TrajectoryReader, measurements: Sequence[Measurement]
    ) -> tuple[Tensor, list[Cotangent]]:
        final = reader.load_state(reader.schedule.steps)
        measured = [self.measure(final, measurement) for measurement in measurements]
        values = torch.tensor([value for value, _ in measured], dtype=torch.float64)
        return values, [cotangent for _, cotangent in measured]

    def open(self, save_dir: Path | str) -> TrajectoryReader:
        """A kept trajectory of this trainer's model."""
        return TrajectoryReader(Path(save_dir), self.step.stage, self._template, self.device)

    def _writer(
        self,
        state: TrainState,
        stream: DataStream,
        save_dir: Path | str | None,
        schedule: Schedule | ScheduleName,
        observer: Observer,
    ) -> AbstractContextManager[TrajectoryWriter | None]:
        if save_dir is None:
            return nullcontext()
        folder = Path(save_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if not isinstance(schedule, Schedule):
            schedule = self._planned(state, stream, folder, schedule, observer)

        def kept(kind: str, step: int, size: int) -> None:
            observer("checkpoint", kind=kind, step=step, bytes=size)

        return TrajectoryWriter(folder, schedule, self.step.stage, kept)

    def _planned(
        self,
        state: TrainState,
        stream: DataStream,
        folder: Path,
        kind: ScheduleName,
        observer: Observer,
    ) -> Schedule:
        training = Training(self.step, state, stream)
        plan, reason = training.plan(folder, kind)
        if plan.why_not is not None:
            raise RunError(f"schedule {plan.schedule.kind} {plan.why_not}")
        kept = [*plan.schedule.checkpoints, plan.schedule.steps]
        observer("planned", schedule=plan.schedule.kind, reason=reason, checkpoints=kept)
        return plan.schedule


def measurements_of(
    queries: DataStream, reduction: Reduction, dtype: torch.dtype
) -> list[Measurement]:
    """A stream's rows as measurements: φ of a row is the mean loss of its targets."""
    rows = len(queries.dataset)
    # A query has one weight, its coefficient, whatever documents its row is made of.
    plain = [
        {name: column for name, column in queries.dataset[row].items() if name != "doc_ids"}
        for row in range(rows)
    ]
    single = DataStream(plain, 1, device=queries.device)
    batches = [single.batch(row, dtype) for row in range(rows)]
    if reduction == "none":
        return [[batch] for batch in batches]
    share = 1.0 / rows if reduction == "mean" else 1.0
    return [[scaled(batch, share) for batch in batches]]


def scaled(batch: Batch, factor: float) -> Batch:
    """The batch with its loss multiplied by ``factor``."""
    return replace(batch, weights=batch.weights * factor)
