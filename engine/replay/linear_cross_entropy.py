"""Output layer and cross-entropy as one operation that can be differentiated twice.

For hidden states h_i, an output matrix W, target classes y_i and coefficients c_i it computes

    L = Σ_i c_i ℓ_i,    ℓ_i = logsumexp(W h_i) - (W h_i)[y_i],

one chunk of tokens at a time, so that no tokens × vocabulary tensor of logits, log-probabilities
or their gradients is ever in memory. It consists of two nested autograd functions. The first
computes L and, in the same sweep over the chunks, its gradient

    ∂L/∂h_i = c_i Wᵀ r_i,    ∂L/∂W = Σ_i r_i (c_i h_i)ᵀ,    ∂L/∂c_i = ℓ_i,

with the residual r_i = softmax(W h_i) - e_{y_i}. The second returns that gradient; its
backward is the Hessian-vector product in closed form. With a direction (a_i, B, e_i), the
directional derivative of the logits z'_i = W a_i + B h_i and of the loss ℓ'_i = r_i · z'_i,

    q_i = (diag(p_i) - p_i p_iᵀ) z'_i,    p_i = r_i + e_{y_i},
    ∂/∂h_i = c_i (Wᵀ q_i + Bᵀ r_i) + e_i Wᵀ r_i,
    ∂/∂W = Σ_i q_i (c_i h_i)ᵀ + r_i (c_i a_i + e_i h_i)ᵀ,    ∂/∂c_i = ℓ'_i.

The residuals may be cached between the gradient and the Hessian-vector products. This needs one
tokens × vocabulary tensor while the graph exists, and saves one matrix product and one exponential
per entry and query. Both ways give the same bits. If the output matrix is frozen, its terms are not
computed.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**23
"""Logits per chunk: large enough for efficient matrix products, 32 MB in float32."""


def weighted_linear_cross_entropy(
    hidden: Tensor, weight: Tensor, coefficients: Tensor, targets: Tensor, cache_bytes: int = 0
) -> Tensor:
    """Σ_i c_i ℓ_i over tokens, differentiable twice in hidden, weight and coefficients.

    Args:
        hidden: (tokens, width) final hidden states.
        weight: (vocabulary, width) output matrix.
        coefficients: (tokens,) multipliers of the token losses.
        targets: (tokens,) int64 target classes.
        cache_bytes: keep the residuals for the second derivative if they fit in this many
            bytes; otherwise recompute them chunk by chunk.
    """
    if not torch.is_grad_enabled():
        losses = linear_cross_entropy(hidden, weight, targets)
        return (coefficients * losses).sum()
    needed = hidden.shape[0] * weight.shape[0] * hidden.element_size()
    result: Tensor = _Loss.apply(hidden, weight, coefficients, targets, needed <= cache_bytes)  # type: ignore[no-untyped-call]
    return result


@torch.no_grad()
def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Token losses ℓ_i, shape (tokens,), without a graph."""
    losses = hidden.new_empty(hidden.shape[0])
    for part in _chunks(hidden, weight):
        logits = hidden[part] @ weight.t()
        chosen = logits.gather(1, targets[part, None])[:, 0]
        losses[part] = torch.logsumexp(logits, 1) - chosen
    return losses


def _chunks(hidden: Tensor, weight: Tensor) -> Iterator[slice]:
    size = max(1, CHUNK_ELEMENTS // weight.shape[0])
    for start in range(0, hidden.shape[0], size):
        yield slice(start, start + size)


def _scratch(hidden: Tensor, weight: Tensor) -> Tensor:
    rows = min(hidden.shape[0], max(1, CHUNK_ELEMENTS // weight.shape[0]))
    return hidden.new_empty(rows, weight.shape[0])


def _add_at(values: Tensor, targets: Tensor, amount: Tensor) -> None:
    """Add ``amount`` (tokens,) to the target entry of each row of ``values``, in place."""
    values.scatter_add_(1, targets[:, None], amount[:, None])


def _residuals(logits: Tensor, logsumexp: Tensor, targets: Tensor) -> Tensor:
    """Turn logits (tokens, vocabulary) into softmax minus one-hot, in place."""
    logits.sub_(logsumexp[:, None]).exp_()
    _add_at(logits, targets, -torch.ones_like(logsumexp))
    return logits


class _Loss(torch.autograd.Function):
    """L, and its gradient in the same sweep."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, coefficients: Tensor, targets: Tensor, cache: bool
    ) -> Tensor:
        tokens, classes = hidden.shape[0], weight.shape[0]
        losses, logsumexp = hidden.new_empty(tokens), hidden.new_empty(tokens)
        hidden_grad = torch.empty_like(hidden)
        weight_grad = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        cached = hidden.new_empty(tokens, classes) if cache else None
        scratch = _scratch(hidden, weight) if cached is None else hidden
        for part in _chunks(hidden, weight):
            h, c, y = hidden[part], coefficients[part, None], targets[part]
            space = scratch[: h.shape[0]] if cached is None else cached[part]
            logits = torch.mm(h, weight.t(), out=space)
            torch.logsumexp(logits, 1, out=logsumexp[part])
            losses[part] = logsumexp[part] - logits.gather(1, y[:, None])[:, 0]
            residuals = _residuals(logits, logsumexp[part], y)
            torch.mm(residuals, weight, out=hidden_grad[part]).mul_(c)
            if weight_grad is not None:
                weight_grad.addmm_(residuals.t(), c * h)
        ctx.save_for_backward(hidden, weight, coefficients, targets)
        ctx.computed = (hidden_grad, weight_grad, losses, logsumexp, cached)
        return torch.dot(coefficients, losses)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        gradient = _Gradient.apply(*ctx.saved_tensors, ctx.computed)  # type: ignore[no-untyped-call]
        if not grad.requires_grad and grad.item() == 1.0:
            return (*gradient, None, None)
        scaled = (None if part is None else grad * part for part in gradient)
        return (*scaled, None, None)


class _Gradient(torch.autograd.Function):
    """The gradient of L; its backward is the Hessian-vector product."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        coefficients: Tensor,
        targets: Tensor,
        computed: tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor | None],
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        hidden_grad, weight_grad, losses, logsumexp, cached = computed
        ctx.save_for_backward(hidden, weight, coefficients, targets, logsumexp)
        ctx.cached = cached
        ctx.set_materialize_grads(False)
        own = None if weight_grad is None else weight_grad.view_as(weight_grad)
        return hidden_grad.view_as(hidden_grad), own, losses.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, a: Tensor | None, b: Tensor | None, e: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, coefficients, targets, logsumexp = ctx.saved_tensors
        a = torch.zeros_like(hidden) if a is None else a
        hidden_out = torch.empty_like(hidden)
        weight_out = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        coefficients_out = torch.empty_like(coefficients)
        tangent_space = _scratch(hidden, weight)
        residual_space = torch.empty_like(tangent_space) if ctx.cached is None else hidden
        for part in _chunks(hidden, weight):
            h, c, y = hidden[part], coefficients[part, None], targets[part]
            if ctx.cached is None:
                logits = torch.mm(h, weight.t(), out=residual_space[: h.shape[0]])
                residuals = _residuals(logits, logsumexp[part], y)
            else:
                residuals = ctx.cached[part]
            tangent = torch.mm(a[part], weight.t(), out=tangent_space[: h.shape[0]])
            if b is not None:
                tangent.addmm_(h, b.t())
            loss_tangent = torch.linalg.vecdot(residuals, tangent)
            coefficients_out[part] = loss_tangent
            mean = loss_tangent + tangent.gather(1, y[:, None])[:, 0]
            tangent.sub_(mean[:, None])
            at_target = tangent.gather(1, y[:, None])[:, 0]
            _add_at(tangent.mul_(residuals), y, at_target)
            out = torch.mm(tangent, weight, out=hidden_out[part])
            if b is not None:
                out.addmm_(residuals, b)
            out.mul_(c)
            right = c * a[part]
            if e is not None:
                out += e[part, None] * (residuals @ weight)
                right += e[part, None] * h
            if weight_out is not None:
                weight_out.addmm_(tangent.t(), c * h).addmm_(residuals.t(), right)
        return hidden_out, weight_out, coefficients_out, None, None
