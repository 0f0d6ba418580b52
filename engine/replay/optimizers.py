"""torchopt optimizers and learning-rate schedules from plain values.

All act elementwise: clipping by global norm belongs to
:class:`~engine.replay.optimizer_stage.OptimizerStage`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torchopt
from torchopt.base import EmptyState, GradientTransformation

from engine.replay.adam import Adam
from engine.replay.pieces import name_of_key

Factor = Callable[[int], float]


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer's name and constants; ``betas``, ``eps``, ``eps_root`` serve Adam(W)."""

    name: Literal["adamw", "adam", "sgd"]
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    eps_root: float = 0.0
    weight_decay: float = 0.0
    momentum: float = 0.0
    bias_lr_multiplier: float = 1.0
    """Learning rate of parameters named ``bias``, as a factor of the others'."""


@dataclass(frozen=True)
class LearningRateSpec:
    """How the learning rate moves over ``steps`` updates, as factors of its peak."""

    name: Literal["constant", "linear", "cosine", "one_cycle"]
    steps: int
    warmup_fraction: float = 0.0
    peak_fraction: float = 0.25
    start_factor: float = 0.0
    end_factor: float = 0.0

    def factor(self, step: int) -> float:
        """The factor of update ``step`` (0-based).

        ``one_cycle`` is linear from ``start_factor`` at 0 to 1 at ``peak_fraction`` of the
        training and on to ``end_factor`` at its end. The others rise linearly from 0 over the
        first ⌈warmup_fraction · T⌉ updates; then, with x the share of the remaining updates
        made, ``linear`` is 1 - x and ``cosine`` (1 + cos πx) / 2.
        """
        if self.name == "one_cycle":
            return self._one_cycle(step)
        warmup = math.ceil(self.warmup_fraction * self.steps)
        if step < warmup:
            return step / warmup
        done = (step - warmup) / max(1, self.steps - warmup)
        if self.name == "linear":
            return max(0.0, 1.0 - done)
        if self.name == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
        return 1.0

    def _one_cycle(self, step: int) -> float:
        peak = self.peak_fraction * self.steps
        if step < peak:
            return self.start_factor + (1.0 - self.start_factor) * step / peak
        done = (step - peak) / max(1e-12, self.steps - peak)
        return 1.0 + (self.end_factor - 1.0) * min(1.0, done)


def build_optimizer(spec: OptimizerSpec, rate: LearningRateSpec) -> GradientTransformation:
    """The torchopt chain of an optimizer under a learning-rate schedule."""

    def learning_rate(count: Any) -> float:
        return spec.learning_rate * rate.factor(int(count))

    def scale(key: str) -> float:
        is_bias = name_of_key(key).rpartition(".")[2] == "bias"
        return spec.bias_lr_multiplier if is_bias else 1.0

    if spec.name == "sgd":
        sgd = torchopt.sgd(learning_rate, momentum=spec.momentum, weight_decay=spec.weight_decay)
        return sgd if spec.bias_lr_multiplier == 1.0 else torchopt.chain(sgd, _scaled(scale))
    return Adam(
        rate=learning_rate,
        betas=spec.betas,
        eps=spec.eps,
        eps_root=spec.eps_root,
        weight_decay=spec.weight_decay,
        decoupled=spec.name == "adamw",
        scale=scale,
    ).transformation()


def _scaled(scale: Callable[[str], float]) -> GradientTransformation:
    """Multiplies the update of every parameter by a factor of its own."""

    def update(updates: Any, state: Any, *, params: Any = None, inplace: bool = True) -> Any:
        return {key: scale(key) * value for key, value in updates.items()}, state

    return GradientTransformation(lambda params: EmptyState(), update)
