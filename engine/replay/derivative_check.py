"""Compare the derivatives that replay uses with finite differences of the training.

Replay propagates cotangents with M = ⟨u, g⟩ + ⟨λ, b'⟩, where g = ∇_θ L is the gradient of a
training step and b' are the buffers after it. Its ∇M, by reverse over reverse, must be the
derivative of M as training computes it: with x = (θ, b, w) and random directions u and v,

    ⟨∇M, v⟩ = (M(x + εv) - M(x - εv)) / 2ε + O(ε²).

The two differ if autograd treats an operation as constant (``no_grad``, ``detach``) or if its
second derivative is wrong. J = ∂g/∂θ is symmetric, so one difference along v gives all of ∇M for
u = v, and each parameter is compared on its own. Buffers and data weights are compared through M
along another direction.

The point x is near the initial parameters, not at them: adapters and heads that start at 0, and
norms that start at 1, hide what they multiply. Parameters whose gradient is 0 at x are skipped, as
are embedding rows without a gradient (``padding_idx``): training does not change them. A kink
(ReLU) or a jump (top-k routing) between x - εv and x + εv looks like a wrong derivative, so the
smallest error over several ε, points and directions counts.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.replay.checkpointed_hvp import LayeredLoss
from engine.replay.derivatives import GradientGraph, first_derivatives, second_derivatives
from engine.replay.state import Batch, BatchLoss, Params, TrainState

STEPS = {torch.float64: (1e-5, 1e-6, 1e-7, 1e-8, 1e-4), torch.float32: (3e-3, 1e-3, 1e-2)}
"""ε relative to the RMS of each tensor, the most accurate first."""
BOUNDS = {torch.float64: 5e-6, torch.float32: 5e-3}
"""Relative error up to which a derivative counts as right, per dtype of the computation."""
SMALLEST = 0.02
"""Lower bound of the RMS by which a tensor is perturbed."""
PERTURBED = (0.05, 0.05, 0.005)
"""Distance of each point from the initial parameters, relative to the RMS of each tensor."""
_LEAST = {torch.float64: 1e-4, torch.float32: 2e-2}
"""Lower bound of the curvature relative to the gradient, as rounding scales with the gradient."""
_FLOOR = 1e-4
"""Parameters whose derivative is below this fraction of the whole are measured against it."""


class OnceDifferentiableError(Exception):
    """A gradient contains an operation that cannot be differentiated; the message names it."""


@dataclass(frozen=True)
class Point:
    """A point at which derivatives are compared, and the directions."""

    state: TrainState
    batch: Batch
    along: Params
    """A direction of parameters and buffers, by name."""
    weights: Tensor
    """A direction of the data weights."""
    seed: int


def point_near(params: Params, buffers: Params, batch: Batch, seed: int) -> Point:
    """A point near the given parameters and buffers, drawn from ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    share = PERTURBED[seed % len(PERTURBED)]

    def moved(tensors: Params) -> Params:
        return {
            name: t + share * _direction(t, generator) if t.is_floating_point() else t.clone()
            for name, t in tensors.items()
        }

    state = TrainState(0, moved(params), [], moved(buffers))
    along = {n: _direction(t, generator) for n, t in state.differentiable.items()}
    noise = torch.randn(batch.weights.shape, generator=generator, dtype=torch.float64)
    return Point(state, batch, along, noise.to(batch.weights), seed)


def second_derivatives_along(loss: BatchLoss, point: Point, moved: Params) -> Params:
    """∇_θ ⟨v, g⟩ at a point, as replay computes it."""
    return _SecondDerivatives(loss, point, moved).products


def second_derivative_error(loss: BatchLoss, point: Point, moved: Params) -> tuple[float, Params]:
    """The relative error of the second derivatives at a point, and ∇_θ ⟨v, g⟩ there.

    Args:
        loss: the loss.
        point: the point and the directions.
        moved: 1 for the elements to compare, from :func:`moved_elements`.

    Raises:
        OnceDifferentiableError: if an operation has no second derivative.
    """
    second = _SecondDerivatives(loss, point, moved)
    return second.error(), second.products


def moved_elements(loss: BatchLoss, point: Point) -> Params:
    """1 for every parameter element with a non-zero gradient, else 0."""
    _, grads, _ = first_derivatives(loss, point.state, point.state.params, point.batch)
    return {name: (grad != 0).to(grad.dtype) for name, grad in grads.items()}


def first_derivative_error(loss: BatchLoss, point: Point, moved: Params) -> float:
    """The relative error of the loss's gradient at a point, computed as for a measurement.

    Args:
        loss: the loss.
        point: the point and the directions.
        moved: 1 for the elements to compare, from :func:`moved_elements`.
    """
    at = point.state.differentiable
    along = {n: v * moved[n] if n in moved else v for n, v in point.along.items()}
    value, grads, _ = first_derivatives(loss, point.state, at, point.batch)
    parts = torch.stack([(grads[n] * v).double().sum() for n, v in along.items()])
    squares = [_norm(grads[n] * v).square() for n, v in along.items()]
    # An error within the rounding of the two values is not counted.
    size = max(torch.stack(squares).sum().sqrt().item(), _FLOOR * abs(value))
    errors = []
    for step in STEPS[dtype_of(at)]:
        with torch.no_grad():
            high, low = (
                _value(loss, _moved(point.state, along, sign * step), point.batch)
                for sign in (1, -1)
            )
        errors.append(_ratio(abs((high - low) / (2 * step) - parts.sum().item()), size))
        if errors[-1] <= BOUNDS[dtype_of(at)]:
            break
    return min(errors)


def gradient_difference(params: Params, one: Params, other: Params, least: float = 0.0) -> float:
    """The largest relative difference of two gradients over the parameters.

    Args:
        params: the parameters; differences are scaled by their RMS.
        one: a gradient.
        other: another.
        least: added to the denominator.
    """
    rows = []
    for name, grad in one.items():
        parts, scale = (grad - other[name], grad, other[name]), _size(params[name])
        rows.append(torch.stack([scale * _norm(part).cpu() for part in parts]))
    difference, *both = torch.stack(rows).unbind(1)
    size = torch.maximum(*both)
    return max(map(_ratio, difference.tolist(), (size + _FLOOR * _norm(size) + least).tolist()))


class _SecondDerivatives:
    """The second derivatives at one point, along u = v."""

    def __init__(self, loss: BatchLoss, point: Point, moved: Params) -> None:
        self.loss, self.point, self.moves = loss, point, moved
        self.dtype = dtype_of(point.state.params)
        self.along = {n: point.along[n] * moves for n, moves in self.moves.items()}
        generator = torch.Generator().manual_seed(point.seed + 1000)
        self.of_buffers = {
            name: torch.randn(b.shape, generator=generator, dtype=torch.float64).to(b)
            for name, b in point.state.buffers.items()
            if b.is_floating_point()
        }
        self._vjp()

    def error(self) -> float:
        """The largest relative error, at the best ε."""
        errors: list[float] = []
        for step in STEPS[self.dtype]:
            errors.append(max(self._of_parameters(step), self._of_sum(step)))
            if errors[-1] <= BOUNDS[self.dtype]:
                break
        return min(errors)

    def _gradient(self, state: TrainState, batch: Batch) -> tuple[Params, Params]:
        return first_derivatives(self.loss, state, state.params, batch)[1:]

    def _vjp(self) -> None:
        """∇M with λ = 0 and, if there are buffers, with another λ."""
        state, batch = self.point.state, self.point.batch
        zeros = {name: torch.zeros_like(b) for name, b in self.of_buffers.items()}
        others = {name: b.clone() for name, b in self.of_buffers.items()}
        of_buffers = [zeros, others] if zeros else [zeros]
        sums = [{n: torch.zeros_like(p) for n, p in state.params.items()} for _ in of_buffers]
        directions = [self.along] * len(sums)
        graph = GradientGraph(self.loss, state.params, batch, state.buffers)
        _refuse_once_differentiable(graph)
        of_gradient = [_size(state.params[n]) * _norm(g.detach()) for n, g in graph.grads.items()]
        self.least = _LEAST[self.dtype] * _norm(torch.stack(of_gradient)).item()
        if isinstance(self.loss, LayeredLoss):
            del graph
            scores = second_derivatives(self.loss, state, batch, directions, sums, of_buffers)
        else:
            scores = graph.vjp(directions, sums, of_buffers)
        self.products, self.sums = sums[0], sums[-1]
        self.at_buffers, self.at_weights = of_buffers[-1], scores[-1]

    def _of_parameters(self, step: float) -> float:
        """The largest relative error over the parameters, from the symmetry of J."""
        state, batch = self.point.state, self.point.batch
        high, _ = self._gradient(_moved(state, self.along, step), batch)
        low, _ = self._gradient(_moved(state, self.along, -step), batch)
        change = {name: (high.pop(name) - low.pop(name)) / (2 * step) for name in list(high)}
        change = {name: moves * change.pop(name) for name, moves in self.moves.items()}
        products = {name: moves * self.products[name] for name, moves in self.moves.items()}
        return gradient_difference(state.params, products, change, self.least)

    def _of_sum(self, step: float) -> float:
        """The relative error of ⟨∇M, v⟩, v a direction of parameters, buffers and weights."""
        point, generator = self.point, torch.Generator().manual_seed(self.point.seed + 2000)
        across = {
            name: _direction(point.state.params[name], generator) * moves
            for name, moves in self.moves.items()
        }
        across.update({name: point.along[name] for name in self.at_buffers})
        high, low = (self._sum(across, sign * step) for sign in (1, -1))
        difference = (high - low) / (2 * step)
        products = [(t, across[n]) for n, t in (self.sums | self.at_buffers).items()]
        products.append((self.at_weights, point.weights))
        expected = sum(_dot(a, b) for a, b in products)
        size = math.sqrt(sum(_norm(a * b).item() ** 2 for a, b in products))
        bound = max(size, abs(difference), abs(expected)) + self.least
        return _ratio(abs(difference - expected), bound)

    def _sum(self, across: Params, by: float) -> float:
        """M at x + ``by`` v."""
        point = self.point
        batch = replace(point.batch, weights=point.batch.weights + by * point.weights)
        grads, after = self._gradient(_moved(point.state, across, by), batch)
        of_gradient = sum(_dot(u, grads.pop(name)) for name, u in self.along.items())
        return of_gradient + sum(_dot(u, after[name]) for name, u in self.of_buffers.items())


def _refuse_once_differentiable(graph: GradientGraph) -> None:
    """Raise if a gradient's graph has an operation without a second derivative.

    A backward pass restricted to the parameters skips such a node silently and omits its term, so
    the graph itself is searched.
    """
    waiting = [grad.grad_fn for grad in graph.grads.values() if grad.grad_fn is not None]
    seen, has_error, custom = set(waiting), False, ""
    while waiting:
        node = waiting.pop()
        has_error |= node.name() in ("torch::autograd::Error", "torch::autograd::NotImplemented")
        if isinstance(node, torch.autograd.function.BackwardCFunction) and not custom:
            name = type(node).__name__.removesuffix("Backward")
            custom = "" if name in ("_Loss", "_Gradient") else name
        following = {below for below, _ in node.next_functions if below is not None} - seen
        seen |= following
        waiting.extend(following)
    if has_error:
        raise OnceDifferentiableError(
            custom or "an autograd.Function with a once-differentiable backward"
        )


def _value(loss: BatchLoss, state: TrainState, batch: Batch) -> float:
    if state.buffers:
        return loss.with_buffers(state.params, batch, state.buffers)[0].item()
    return loss(state.params, batch).item()


def _moved(state: TrainState, direction: Params, by: float) -> TrainState:
    def moved(tensors: Params) -> Params:
        return {
            name: torch.add(t, direction[name], alpha=by) if name in direction else t
            for name, t in tensors.items()
        }

    return replace(state, params=moved(state.params), buffers=moved(state.buffers))


def _direction(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Noise with the RMS of a tensor; relative noise if all its elements are positive."""
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor)
    if tensor.numel() and bool((tensor > 0).all()):
        return noise * tensor
    return noise * _size(tensor)


def _size(tensor: Tensor) -> float:
    if not tensor.numel():
        return SMALLEST
    return max(_norm(tensor).item() / math.sqrt(tensor.numel()), SMALLEST)


def dtype_of(params: Params) -> torch.dtype:
    """float64 if all parameters are, else float32, whose bounds also apply to bfloat16."""
    wide = all(p.dtype in (torch.float64, torch.complex128) for p in params.values())
    return torch.float64 if wide else torch.float32


def _norm(tensor: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(tensor.flatten(), dtype=torch.float64)
    return norm


def _dot(a: Tensor, b: Tensor) -> float:
    return (a.double() * b.double()).sum().item()


def _ratio(error: float, size: float) -> float:
    if error == 0.0:
        return 0.0
    # A value that is not finite gives an infinite error.
    return error / size if math.isfinite(error) and size > 0 else math.inf
