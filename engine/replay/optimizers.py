"""Optimizers and learning-rate schedules, and Adam's vector-Jacobian product in closed form.

All optimizers are torchopt chains that act elementwise; clipping by global norm belongs to
:class:`~engine.replay.optimizer_stage.OptimizerStage`.

One Adam(W) update of an element is, with t counted from 1 and γ the scheduled rate,

    m' = β1 m + (1-β1) g,    v' = β2 v + (1-β2) g²,
    θ' = (1 - γλ) θ - γ m̂ / (√(v̂ + ε_root) + ε),    m̂ = m'/(1-β1ᵗ),    v̂ = v'/(1-β2ᵗ).

A parameter may multiply γ by a factor of its own. (In Adam the decay λ enters the gradient instead:
g + λθ.) Let c = ∂θ'/∂m' and e = ∂θ'/∂v', which all queries share. The VJP maps cotangents (a, b, d)
at (θ', m', v') to

    μ = b + c a,    ν = d + e a,    u = (1-β1) μ + 2(1-β2) g ν   at g,
    (1 - γλ) a  at θ (Adam: a + λ u),    β1 μ  at m,    β2 ν  at v.

This takes a third of the memory traffic of differentiating the update's operations one by one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import optree
import torch
import torchopt
from torch import Tensor
from torchopt.base import EmptyState, GradientTransformation

from engine.replay.optimizer_stage import parameter_of_key
from engine.replay.state import Params


@dataclass(frozen=True)
class Adam:
    """Adam's constants; ``decoupled`` makes it AdamW. ``rate`` is γ of a 0-based update."""

    rate: Callable[[int], float]
    betas: tuple[float, float]
    eps: float
    eps_root: float
    weight_decay: float
    decoupled: bool
    scale: Callable[[str], float] = lambda key: 1.0
    """The factor on γ for the parameter slice of a key."""

    def transformation(self) -> "AdamTransformation":
        """The torchopt chain, with this VJP."""
        build = torchopt.adamw if self.decoupled else torchopt.adam
        chain = build(
            lambda count: self.rate(int(count)),
            betas=self.betas,
            eps=self.eps,
            eps_root=self.eps_root,
            weight_decay=self.weight_decay,
        )

        def update(*args: Any, **kwargs: Any) -> Any:
            updates, state = chain.update(*args, **kwargs)
            factors = {key: self.scale(key) for key in updates}
            scaled = {k: u if factors[k] == 1.0 else factors[k] * u for k, u in updates.items()}
            return scaled, state

        transformation = AdamTransformation(chain.init, update)
        transformation.group_vjp = self.vjp
        return transformation

    @torch.no_grad()
    def vjp(
        self,
        inputs: tuple[Params, Any, Params],
        cotangents: Sequence[Sequence[Tensor]],
        directions: Sequence[Sequence[Tensor]],
    ) -> None:
        """The VJP of one update at (parameters, torchopt state, gradients).

        Args:
            inputs: the point at which the update is differentiated.
            cotangents: each lists the cotangents of the parameters, then of the state's
                floating-point leaves in optree's order: all first moments, then all second
                moments, each sorted by name. Overwritten.
            directions: each lists tensors like the gradients; overwritten with u.
        """
        params, state, grads = inputs
        leaves = optree.tree_leaves(state)
        moments = [leaf for leaf in leaves if leaf.is_floating_point()]
        count = int(next(leaf for leaf in leaves if not leaf.is_floating_point()))
        size = len(params)
        position = {name: index for index, name in enumerate(sorted(params))}
        for index, name in enumerate(params):
            first, second = position[name], size + position[name]
            rate = self.rate(count) * self.scale(name)
            at = (params[name], moments[first], moments[second], grads[name])
            shared = self._shared(at, rate, count)
            for cotangent, direction in zip(cotangents, directions, strict=True):
                ends = (cotangent[index], cotangent[size + first], cotangent[size + second])
                self._element_vjp(shared, ends, direction[index], rate)

    def _shared(
        self, at: tuple[Tensor, Tensor, Tensor, Tensor], rate: float, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return c = ∂θ'/∂m', e = ∂θ'/∂v', and ∂v'/∂g at (θ, m, v, g)."""
        theta, m, v, g = at
        beta1, beta2 = self.betas
        if not self.decoupled and self.weight_decay:
            g = torch.add(g, theta, alpha=self.weight_decay)
        correction1, correction2 = 1 - beta1 ** (count + 1), 1 - beta2 ** (count + 1)
        new_m = (m * beta1).add_(g, alpha=1 - beta1)
        new_v = (v * beta2).addcmul_(g, g, value=1 - beta2)
        root = new_v.div_(correction2).add_(self.eps_root).sqrt_()
        denominator = root + self.eps
        c = torch.reciprocal(denominator).mul_(-rate / correction1)
        e = new_m.mul_(c).div_(denominator.mul_(root)).mul_(-0.5 / correction2)
        return c, e, g * (2 * (1 - beta2))

    def _element_vjp(
        self,
        shared: tuple[Tensor, Tensor, Tensor],
        ends: tuple[Tensor, Tensor, Tensor],
        u: Tensor,
        rate: float,
    ) -> None:
        c, e, slope = shared
        at_theta, at_m, at_v = ends
        at_m.addcmul_(c, at_theta)
        at_v.addcmul_(e, at_theta)
        torch.mul(at_m, 1 - self.betas[0], out=u).addcmul_(slope, at_v)
        if not self.decoupled:
            at_theta.add_(u, alpha=self.weight_decay)
        elif self.weight_decay:
            # Skipped without decay: multiplying by 1 would read and write all memory for nothing.
            at_theta.mul_(1 - rate * self.weight_decay)
        at_m.mul_(self.betas[0])
        at_v.mul_(self.betas[1])


class AdamTransformation(GradientTransformation):  # type: ignore[misc]
    """A torchopt chain with the VJP of its update."""

    group_vjp: Callable[..., None]


Factor = Callable[[int], float]


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer's name and constants; ``betas``, ``eps``, ``eps_root`` are Adam(W)'s."""

    name: Literal["adamw", "adam", "sgd"]
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    eps_root: float = 0.0
    """0 as in torch; the config's default is 1e-8."""
    weight_decay: float = 0.0
    momentum: float = 0.0
    bias_lr_multiplier: float = 1.0
    """Factor on the learning rate of parameters named ``bias``."""


@dataclass(frozen=True)
class LearningRateSpec:
    """A learning-rate schedule over ``steps`` updates, as factors of the peak rate."""

    name: Literal["constant", "linear", "cosine", "one_cycle"]
    steps: int
    warmup_fraction: float = 0.0
    peak_fraction: float = 0.25
    start_factor: float = 0.0
    end_factor: float = 0.0

    def factor(self, step: int) -> float:
        """The factor of update ``step`` (0-based).

        ``one_cycle`` is linear from ``start_factor`` at 0 to 1 at ``peak_fraction`` of the
        training, then linear to ``end_factor`` at its end. The others rise linearly from 0 over
        the first ⌈warmup_fraction · T⌉ updates. After that, with x the fraction of the remaining
        updates done, ``constant`` is 1, ``linear`` is 1 - x and ``cosine`` is (1 + cos πx) / 2.
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
        is_bias = parameter_of_key(key).rpartition(".")[2] == "bias"
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
    """Multiplies each parameter's update by a factor of its own."""

    def update(updates: Any, state: Any, *, params: Any = None, inplace: bool = True) -> Any:
        return {key: scale(key) * value for key, value in updates.items()}, state

    return GradientTransformation(lambda params: EmptyState(), update)
