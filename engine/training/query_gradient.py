"""φ of a trained model, and its derivatives in the train state: where every replay begins."""

import math

import torch

from engine.models.module_loss import ModuleLoss
from engine.replay.replay import DivergedError
from engine.replay.state import Cotangent, Params, TrainState
from engine.replay.train_step import TrainStep
from engine.training.measurements import Measurement


class QueryGradient:
    """Measures one loss, whose derivatives one training step knows."""

    def __init__(self, loss: ModuleLoss, step: TrainStep) -> None:
        """``loss`` is that of whole rows, ``step`` differentiates it as in training."""
        self._loss, self._step = loss, step

    @torch.no_grad()
    def value(self, state: TrainState, measurement: Measurement) -> float:
        """φ alone."""
        with self._loss.evaluating():
            return sum(
                self._loss(state.params, batch, state.buffers).item() for batch in measurement
            )

    def gradient(self, state: TrainState, measurement: Measurement) -> tuple[float, Params]:
        """φ and its gradient in the parameters, and in the buffers that training changes.

        Raises:
            DivergedError: if φ is not finite.
        """
        value, total = 0.0, None
        with self._loss.evaluating():
            for batch in measurement:
                part, grads = self._step.derivative(state, batch)
                value += part
                total = grads if total is None else {n: g.add_(grads[n]) for n, g in total.items()}
        if total is None or not math.isfinite(value):
            raise DivergedError("query's loss", state.step)
        return value, total

    def cotangent(self, state: TrainState, measurement: Measurement) -> tuple[float, Cotangent]:
        """φ and its derivative in the whole train state.

        Raises:
            DivergedError: if φ is not finite.
        """
        value, gradient = self.gradient(state, measurement)
        return value, self._of_gradient(state, gradient)

    def _of_gradient(self, state: TrainState, gradient: Params) -> Cotangent:
        """The cotangent at s_T of what has this gradient in the parameters and buffers."""
        return Cotangent(
            {name: gradient[name] for name in state.params},
            self._step.stage.zero_cotangent(state.params, state.optimizer),
            {name: gradient[name] for name in state.buffers if name in gradient},
        )
