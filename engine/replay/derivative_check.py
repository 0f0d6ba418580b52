"""Whether the derivatives that a replay uses are those of the training, by finite differences.

A replay carries cotangents back with M = ⟨u, g⟩ + ⟨λ, b'⟩, where g = ∇_θ L is the gradient that
training takes and b' the buffers that it leaves. Its ∇M, by reverse over reverse, has to be the
derivative of M as training computes it: with x = (θ, b, w) and random directions u and v,

    ⟨∇M, v⟩ = (M(x + εv) - M(x - εv)) / 2ε + O(ε²).

An operation that autograd takes for constant (``no_grad``, ``detach``), or whose second
derivative is wrong, breaks this. J = ∂g/∂θ is symmetric, so that one difference along v gives all
of ∇M for u = v, and every parameter is compared on its own. Buffers and data weights are compared
by M along another direction.

The point x lies beside the initial parameters: adapters and heads that begin at 0, and norms
that begin at 1, hide what they multiply. Parameters whose gradient is 0 at x are left out, as
are rows of an embedding that autograd gives none (``padding_idx``): training does not move them.
A kink (ReLU) or a jump (routing to the best experts) between x - εv and x + εv looks like a wrong
derivative: the smallest error over several ε, points and directions counts.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.replay.checkpointed_hvp import LayeredLoss
from engine.replay.derivatives import GradientGraph, first_derivatives, second_derivatives
from engine.replay.state import Batch, BatchLoss, Params, TrainState

STEPS = {torch.float64: (1e-5, 1e-6, 1e-7, 1e-8, 1e-4), torch.float32: (3e-3, 1e-3, 1e-2)}
"""ε, relative to the size of each tensor, the most accurate first."""
BOUNDS = {torch.float64: 5e-6, torch.float32: 5e-3}
"""Relative error up to which a derivative counts as right, by the dtype it is computed in."""
SMALLEST = 0.02
"""Tensors are perturbed as if their elements were of this size at least."""
PERTURBED = (0.05, 0.05, 0.005)
"""How far the points lie from the initial parameters, relative to the size of each tensor."""
_LEAST = {torch.float64: 1e-4, torch.float32: 2e-2}
"""Share of the gradient that curvature counts as at least: rounding is a share of the gradient."""
_FLOOR = 1e-4
"""Share of the whole below which an error in one parameter is measured against the whole."""


class OnceDifferentiableError(Exception):
    """A gradient has an operation that refuses to be differentiated; its text names it."""


@dataclass(frozen=True)
class Point:
    """Where derivatives are compared, and along what."""

    state: TrainState
    batch: Batch
    along: Params
    """A direction by name, of parameters and of buffers."""
    weights: Tensor
    """The same of data weights."""
    seed: int


def point_beside(params: Params, buffers: Params, batch: Batch, seed: int) -> Point:
    """A point beside given parameters and buffers, drawn from ``seed``."""
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
    """∇_θ ⟨v, g⟩ at a point, as a replay computes it."""
    return _Second(loss, point, moved).products


def second_derivative_error(loss: BatchLoss, point: Point, moved: Params) -> tuple[float, Params]:
    """Relative error of the second derivatives at a point, and those along its direction.

    Args:
        loss: the loss.
        point: where, and along what.
        moved: which elements count, as :func:`moved_elements` tells.

    Raises:
        OnceDifferentiableError: naming an operation that has none.
    """
    second = _Second(loss, point, moved)
    return second.error(), second.products


def moved_elements(loss: BatchLoss, point: Point) -> Params:
    """1 for every element of the parameters that training moves, else 0."""
    _, grads, _ = first_derivatives(loss, point.state, point.state.params, point.batch)
    return {name: (grad != 0).to(grad.dtype) for name, grad in grads.items()}


def first_derivative_error(loss: BatchLoss, point: Point, moved: Params) -> float:
    """Relative error of the loss's gradient at a point, as a measurement is differentiated.

    Args:
        loss: the loss.
        point: where, and along what.
        moved: which elements count, as :func:`moved_elements` tells.
    """
    at = point.state.differentiable
    along = {n: v * moved[n] if n in moved else v for n, v in point.along.items()}
    value, grads, _ = first_derivatives(loss, point.state, at, point.batch)
    parts = torch.stack([(grads[n] * v).double().sum() for n, v in along.items()])
    squares = [_norm(grads[n] * v).square() for n, v in along.items()]
    # What rounding leaves of the difference of two values counts for little.
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
    """The largest relative difference of two gradients in one parameter.

    Args:
        params: of whose sizes changes are counted in.
        one: a gradient.
        other: another.
        least: what is added to the size that a difference is measured against.
    """
    rows = []
    for name, grad in one.items():
        parts, scale = (grad - other[name], grad, other[name]), _size(params[name])
        rows.append(torch.stack([scale * _norm(part).cpu() for part in parts]))
    difference, *both = torch.stack(rows).unbind(1)
    size = torch.maximum(*both)
    return max(map(_ratio, difference.tolist(), (size + _FLOOR * _norm(size) + least).tolist()))


class _Second:
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
        """The smallest over ε of the largest relative error."""
        errors: list[float] = []
        for step in STEPS[self.dtype]:
            errors.append(max(self._of_parameters(step), self._of_sum(step)))
            if errors[-1] <= BOUNDS[self.dtype]:
                break
        return min(errors)

    def _gradient(self, state: TrainState, batch: Batch) -> tuple[Params, Params]:
        return first_derivatives(self.loss, state, state.params, batch)[1:]

    def _vjp(self) -> None:
        """∇M with λ = 0 and, where there are buffers, with another."""
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
        """The largest relative error in one parameter, where J is symmetric."""
        state, batch = self.point.state, self.point.batch
        high, _ = self._gradient(_moved(state, self.along, step), batch)
        low, _ = self._gradient(_moved(state, self.along, -step), batch)
        change = {name: (high.pop(name) - low.pop(name)) / (2 * step) for name in list(high)}
        change = {name: moves * change.pop(name) for name, moves in self.moves.items()}
        products = {name: moves * self.products[name] for name, moves in self.moves.items()}
        return gradient_difference(state.params, products, change, self.least)

    def _of_sum(self, step: float) -> float:
        """The relative error of ∇M along a direction of parameters, buffers and weights."""
        point, generator = self.point, torch.Generator().manual_seed(self.point.seed + 2000)
        across = {
            name: _direction(point.state.params[name], generator) * moves
            for name, moves in self.moves.items()
        }
        across.update({name: point.along[name] for name in self.at_buffers})
        high, low = (self._sum(across, sign * step) for sign in (1, -1))
        found = (high - low) / (2 * step)
        products = [(t, across[n]) for n, t in (self.sums | self.at_buffers).items()]
        products.append((self.at_weights, point.weights))
        expected = sum(_dot(a, b) for a, b in products)
        size = math.sqrt(sum(_norm(a * b).item() ** 2 for a, b in products))
        return _ratio(abs(found - expected), max(size, abs(found), abs(expected)) + self.least)

    def _sum(self, across: Params, by: float) -> float:
        """M at x + ``by`` v."""
        point = self.point
        batch = replace(point.batch, weights=point.batch.weights + by * point.weights)
        grads, after = self._gradient(_moved(point.state, across, by), batch)
        of_gradient = sum(_dot(u, grads.pop(name)) for name, u in self.along.items())
        return of_gradient + sum(_dot(u, after[name]) for name, u in self.of_buffers.items())


def _refuse_once_differentiable(graph: GradientGraph) -> None:
    """Raise if a gradient's graph has an operation that refuses a second derivative.

    Asking for derivatives in the parameters alone passes such a node by without the error it
    would raise, and leaves its share out: the graph itself has to be searched.
    """
    waiting = [grad.grad_fn for grad in graph.grads.values() if grad.grad_fn is not None]
    seen, refusing, custom = set(waiting), False, ""
    while waiting:
        node = waiting.pop()
        refusing |= node.name() in ("torch::autograd::Error", "torch::autograd::NotImplemented")
        if isinstance(node, torch.autograd.function.BackwardCFunction) and not custom:
            name = type(node).__name__.removesuffix("Backward")
            custom = "" if name in ("_Loss", "_Gradient") else name
        following = {below for below, _ in node.next_functions if below is not None} - seen
        seen |= following
        waiting.extend(following)
    if refusing:
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
    """Noise as large as a tensor; what is positive throughout, as variances are, stays so."""
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor)
    if tensor.numel() and bool((tensor > 0).all()):
        return noise * tensor
    return noise * _size(tensor)


def _size(tensor: Tensor) -> float:
    if not tensor.numel():
        return SMALLEST
    return max(_norm(tensor).item() / math.sqrt(tensor.numel()), SMALLEST)


def dtype_of(params: Params) -> torch.dtype:
    """The coarsest of them: bfloat16 counts as float32, which it is compared with in vain."""
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
    # No number: something was not finite.
    return error / size if math.isfinite(error) and size > 0 else math.inf
