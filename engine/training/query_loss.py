"""Query losses φ of the trained model, and their derivatives in the train state.

φ is a function of the final train state s_T. Its derivative in s_T is the cotangent from which a
replay starts (MAGIC, arXiv 2504.16430, section 3).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from engine.models.module_loss import ModuleLoss
from engine.replay.replay import DivergedError
from engine.replay.state import Batch, Cotangent, Params, TrainState
from engine.replay.train_step import TrainStep
from engine.runs.config import Reduction
from engine.training.data_stream import DataStream

QueryLoss = Sequence[Batch]
"""φ as the sum of the losses of these batches.

The weight of a batch is the coefficient of its loss in φ.
"""


def query_losses_of(
    queries: DataStream, reduction: Reduction, dtype: torch.dtype
) -> list[QueryLoss]:
    """The query losses of a stream's rows; the loss of a row is the mean over its targets.

    Args:
        queries: the rows; their order, batch size and data weights are not used.
        reduction: ``none`` gives one φ a row, ``mean`` or ``sum`` one φ of all rows.
        dtype: dtype of the batches' weights.
    """
    count = len(queries.dataset)
    # A query has one weight, its coefficient, whatever documents its tokens belong to.
    rows = [
        {name: column for name, column in queries.dataset[row].items() if name != "doc_ids"}
        for row in range(count)
    ]
    single = DataStream(rows, 1, device=queries.device)
    batches = [single.batch(row, dtype) for row in range(count)]
    if reduction == "none":
        return [[batch] for batch in batches]
    share = 1.0 / count if reduction == "mean" else 1.0
    return [[scaled(batch, share) for batch in batches]]


def scaled(batch: Batch, factor: float) -> Batch:
    """The batch with its loss multiplied by ``factor``."""
    return replace(batch, weights=batch.weights * factor)


class QueryLossEvaluator:
    """Evaluates query losses and their gradients at a train state, in evaluation mode."""

    def __init__(self, loss: ModuleLoss, step: TrainStep) -> None:
        """``loss`` evaluates whole rows; ``step`` differentiates them as in training."""
        self._loss, self._step = loss, step

    @torch.no_grad()
    def value(self, state: TrainState, query: QueryLoss) -> float:
        """φ at ``state``."""
        with self._loss.evaluating():
            return sum(self._loss(state.params, batch, state.buffers).item() for batch in query)

    def gradient(self, state: TrainState, query: QueryLoss) -> tuple[float, Params]:
        """φ and ∂φ/∂(θ, b): by name, in the parameters and in the buffers that training changes.

        Raises:
            DivergedError: if φ is not finite.
        """
        value, total = 0.0, None
        with self._loss.evaluating():
            for batch in query:
                part, grads = self._step.derivative(state, batch)
                value += part
                total = grads if total is None else {n: g.add_(grads[n]) for n, g in total.items()}
        if total is None or not math.isfinite(value):
            raise DivergedError("query's loss", state.step)
        return value, total

    def cotangent(self, state: TrainState, query: QueryLoss) -> tuple[float, Cotangent]:
        """φ and ∂φ/∂s, the derivative in the whole train state.

        φ does not depend on the optimizer's state, so those components are zero.

        Raises:
            DivergedError: if φ is not finite.
        """
        value, gradient = self.gradient(state, query)
        return value, self._cotangent(state, gradient)

    def _cotangent(self, state: TrainState, gradient: Params) -> Cotangent:
        return Cotangent(
            {name: gradient[name] for name in state.params},
            self._step.stage.zero_cotangent(state.params, state.optimizer),
            {name: gradient[name] for name in state.buffers if name in gradient},
        )
