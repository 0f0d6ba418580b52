"""Exact scores by automatic differentiation through the whole unrolled training.

Nothing of the engine's step, optimizer or replay is used. The optimizers, the learning-rate
factors, the clipping and the token losses are written out once more from their definitions, the
parameters of every step stay in one autograd graph, and a score is the gradient of a query's loss
in the data weights, which are leaves of that graph. All of it is in float64.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.replay.optimizers import LearningRateSpec, OptimizerSpec

Params = dict[str, Tensor]
Moments = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Tokens:
    """Rows of a language model: token ids and which positions count, both (rows, tokens)."""

    ids: Tensor
    targets: Tensor

    def __getitem__(self, rows: NDArray[np.int64]) -> "Tokens":
        chosen = torch.from_numpy(rows)
        return Tokens(self.ids[chosen], self.targets[chosen])

    def __len__(self) -> int:
        return len(self.ids)


LossesOf = Callable[[Params, Any], tuple[Tensor, int]]
"""The losses of some rows, shaped as their weights, and how many of them count."""
ChangingLossesOf = Callable[[Params, Params, Any], tuple[Tensor, int, Params]]
"""The same of a model with buffers, given second; and the buffers after it."""


@dataclass(frozen=True)
class Training:
    """The settings of a training, as the engine gets them."""

    optimizer: OptimizerSpec
    rate: LearningRateSpec
    max_grad_norm: float | None
    order: Sequence[NDArray[np.int64]]


@dataclass(frozen=True)
class Exact:
    """φ of every query, (queries,), and its derivatives.

    ``weights`` is (queries, *data weights) and ``steps`` (queries, steps): what one step adds.
    """

    phi: Tensor
    weights: Tensor
    steps: Tensor

    def combined(self, coefficients: Sequence[Sequence[float]]) -> "Exact":
        """The same of sums of queries, one for each row of coefficients."""
        matrix = torch.tensor(coefficients, dtype=torch.float64)
        weights = torch.tensordot(matrix, self.weights, dims=1)
        return Exact(matrix @ self.phi, weights, matrix @ self.steps)


def exact(
    losses_of: LossesOf, start: Params, rows: Any, weights: Tensor, training: Training, queries: Any
) -> Exact:
    """Train on ``rows`` with data weights and differentiate the mean loss of every query."""
    leaf = weights.detach().clone().requires_grad_()
    # A copy for every step gives the part of a score that the step adds.
    copies = [leaf.clone() for _ in training.order]
    final = train(losses_of, start, rows, copies, training)
    each = [losses_of(final, queries[np.array([i])]) for i in range(len(queries))]
    phi = [losses.sum() / count for losses, count in each]
    grads = [torch.autograd.grad(one, [leaf, *copies], retain_graph=True) for one in phi]
    return Exact(
        torch.stack(phi).detach(),
        torch.stack([total for total, *_ in grads]),
        torch.stack([torch.stack([g.sum() for g in added]) for _, *added in grads]),
    )


def language_model_losses(model: nn.Module) -> LossesOf:
    """The loss at j of predicting token j+1 from the model's own logits, 0 where none counts."""
    names = dict(model.named_parameters(remove_duplicate=False))
    leaf_of = {id(parameter): name for name, parameter in model.named_parameters()}

    def losses(params: Params, tokens: Tokens) -> tuple[Tensor, int]:
        # A tied weight is put in every place of the model where it stands.
        everywhere = {
            name: params[leaf_of[id(p)]] for name, p in names.items() if leaf_of[id(p)] in params
        }
        logits = torch.func.functional_call(
            model,
            everywhere,
            kwargs={"input_ids": tokens.ids, "use_cache": False},
            tie_weights=False,
        ).logits
        following = tokens.ids.roll(-1, dims=1)
        values = F.cross_entropy(logits.transpose(1, 2), following, reduction="none")
        count = max(1, int(tokens.targets.sum()))
        return torch.where(tokens.targets, values, torch.zeros_like(values)), count

    return losses


def leaves_of(model: nn.Module) -> Params:
    """Copies of the parameters that are trained; a tied one appears once."""
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    return {name: p.detach().clone().requires_grad_() for name, p in trained.items()}


def train(
    losses_of: LossesOf,
    params: Params,
    rows: Any,
    weights: Sequence[Tensor],
    training: Training,
) -> Params:
    """The parameters at the end of training, as a function of the data weights of every step."""

    def losses(params: Params, buffers: Params, rows: Any) -> tuple[Tensor, int, Params]:
        return *losses_of(params, rows), buffers

    return train_changing(losses, params, {}, rows, weights, training)[0]


def train_changing(
    losses_of: ChangingLossesOf,
    params: Params,
    buffers: Params,
    rows: Any,
    weights: Sequence[Tensor],
    training: Training,
) -> tuple[Params, Params]:
    """The parameters and buffers at the end of training."""
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in params.items()}
    for step, chosen in enumerate(training.order):
        losses, count, buffers = losses_of(params, buffers, rows[chosen])
        loss = (weights[step][torch.from_numpy(chosen)] * losses).sum() / count
        grads = torch.autograd.grad(
            loss, list(params.values()), create_graph=True, materialize_grads=True
        )
        clipped = clip(dict(zip(params, grads, strict=True)), training.max_grad_norm)
        rate = training.optimizer.learning_rate * factor(training.rate, step)
        params, moments = update(training.optimizer, rate, step + 1, params, clipped, moments)
    return params, buffers


def normalised(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Every channel less its mean, over its standard deviation."""
    shape = (1, -1, *[1] * (x.ndim - 2))
    return (x - mean.reshape(shape)) / (variance.reshape(shape) + 1e-5) ** 0.5


def batch_norm(
    x: Tensor, buffers: Params, name: str, momentum: float | None = 0.1
) -> tuple[Tensor, Params]:
    """The output from the batch's own statistics, and the running ones after it."""
    channels = x.movedim(1, 0).flatten(1)
    count = channels.shape[1]
    mean = channels.sum(1) / count
    variance = ((channels - mean[:, None]) ** 2).sum(1) / count
    tracked = buffers[f"{name}.num_batches_tracked"] + 1
    share = 1.0 / tracked.item() if momentum is None else momentum
    statistics = {"running_mean": mean, "running_var": variance * count / (count - 1)}
    after = {
        f"{name}.{own}": buffers[f"{name}.{own}"] * (1 - share) + share * value
        for own, value in statistics.items()
    }
    return normalised(x, mean, variance), {**after, f"{name}.num_batches_tracked": tracked}


def by_document(token_scores: Tensor, documents: Tensor, count: int) -> Tensor:
    """Sums of token scores: (measurements, rows, tokens) to (measurements, documents)."""
    return torch.stack(
        [token_scores[:, documents == document].sum(1) for document in range(count)], dim=1
    )


def clip(grads: Params, max_norm: float | None) -> Params:
    """``clip_grad_norm_``."""
    if max_norm is None:
        return grads
    norm = torch.cat([grad.flatten() for grad in grads.values()]).norm()
    coefficient = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    return {name: coefficient * grad for name, grad in grads.items()}


def factor(rate: LearningRateSpec, step: int) -> float:
    """The learning rate of a step as a factor of its peak."""
    total = rate.steps
    if rate.name == "one_cycle":
        corners = [0.0, rate.peak_fraction * total, float(total)]
        return float(np.interp(step, corners, [rate.start_factor, 1.0, rate.end_factor]))
    warmup = math.ceil(rate.warmup_fraction * total)
    if step < warmup:
        return step / warmup
    done = (step - warmup) / (total - warmup)
    shapes = {"constant": 1.0, "linear": 1.0 - done, "cosine": math.cos(math.pi / 2 * done) ** 2}
    return shapes[rate.name]


def update(
    spec: OptimizerSpec, rate: float, count: int, params: Params, grads: Params, moments: Moments
) -> tuple[Params, Moments]:
    """One update, the ``count``-th, of every parameter."""
    one = {"adamw": adamw, "adam": adam, "sgd": sgd}[spec.name]
    rates = {n: rate * (spec.bias_lr_multiplier if n.endswith("bias") else 1.0) for n in params}
    stepped = {n: one(spec, rates[n], count, p, grads[n], moments[n]) for n, p in params.items()}
    return {n: p for n, (p, _) in stepped.items()}, {n: m for n, (_, m) in stepped.items()}


Updated = tuple[Tensor, tuple[Tensor, Tensor]]


def adamw(
    spec: OptimizerSpec, rate: float, count: int, p: Tensor, g: Tensor, m: tuple[Tensor, Tensor]
) -> Updated:
    """θ - η (m̂ / (√(v̂ + eps_root) + eps) + λ θ)."""
    direction, moments = adam_direction(spec, count, g, m)
    return p - rate * (direction + spec.weight_decay * p), moments


def adam(
    spec: OptimizerSpec, rate: float, count: int, p: Tensor, g: Tensor, m: tuple[Tensor, Tensor]
) -> Updated:
    """The weight decay is part of the gradient, as in ``torch.optim.Adam``."""
    direction, moments = adam_direction(spec, count, g + spec.weight_decay * p, m)
    return p - rate * direction, moments


def adam_direction(
    spec: OptimizerSpec, count: int, g: Tensor, m: tuple[Tensor, Tensor]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """m̂ / (√(v̂ + eps_root) + eps)."""
    first, second = spec.betas
    mean = first * m[0] + (1.0 - first) * g
    square = second * m[1] + (1.0 - second) * g * g
    unbiased, root = mean / (1.0 - first**count), square / (1.0 - second**count) + spec.eps_root
    return unbiased / (root.sqrt() + spec.eps), (mean, square)


def sgd(
    spec: OptimizerSpec, rate: float, count: int, p: Tensor, g: Tensor, m: tuple[Tensor, Tensor]
) -> Updated:
    """``torch.optim.SGD`` with momentum and coupled weight decay."""
    velocity = spec.momentum * m[0] + g + spec.weight_decay * p
    return p - rate * velocity, (velocity, m[1])
