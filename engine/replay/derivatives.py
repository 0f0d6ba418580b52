"""The gradient of one micro-batch's loss, and Hessian-vector products.

Hessian-vector products are VJPs of the gradient, by reverse over reverse: the graph of the gradient
is built once, and one backward pass through it gives the VJP for each query's direction. All
queries share the first-order work.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from engine.replay.checkpointed_hvp import CheckpointedHVP, LayeredLoss
from engine.replay.state import Batch, BatchLoss, Params, TrainState


class GradientGraph:
    """The graph of one micro-batch's gradient and buffers, for vector-Jacobian products."""

    def __init__(
        self, loss: BatchLoss, params: Params, batch: Batch, buffers: Params | None = None
    ) -> None:
        self.leaves = _leaves(params)
        self.weights = batch.weights.detach().requires_grad_()
        floats = {n: b for n, b in (buffers or {}).items() if b.is_floating_point()}
        self.buffer_leaves = _leaves(floats)
        with torch.enable_grad():
            value, self.after = _forward(
                loss,
                self.leaves,
                replace(batch, weights=self.weights),
                _replaced(buffers or {}, self.buffer_leaves),
            )
            self.grads = _gradient(value, self.leaves, create_graph=True)

    def vjp(
        self,
        directions: Iterable[Params],
        sums: Sequence[Params],
        of_buffers: Sequence[Params] | None = None,
    ) -> Tensor:
        """The VJP of (g, b') along every direction u and its λ_b: ∇M for M = ⟨u, g⟩ + ⟨λ_b, b'⟩.

        The last backward pass frees the graph.

        Args:
            directions: the u, as many as ``sums``; consumed one at a time.
            sums: ∇_θ M is added to them.
            of_buffers: the λ_b; overwritten with ∇_b M.

        Returns:
            ∂M/∂w, one row per direction.

        Raises:
            TypeError: if the loss does not depend on the data weights.
        """
        upcoming, scores = iter(directions), []
        targets = list(zip(sums, of_buffers or [{}] * len(sums), strict=True))
        for number, (total, at_buffers) in enumerate(targets, start=1):
            keep = number < len(targets)
            # The direction gets no name: it must be freed before the next one is computed.
            scores.append(self._vjp_one(next(upcoming), total, at_buffers, keep))
        self.grads, self.after = {}, {}
        return _stacked(scores)

    def _vjp_one(
        self, direction: Params, total: Params, at_buffers: Params, keep: bool
    ) -> Tensor | None:
        live = [name for name, grad in self.grads.items() if grad.requires_grad]
        changed = [name for name in self.buffer_leaves if self.after[name].requires_grad]
        products_and_score = torch.autograd.grad(
            [self.grads[name] for name in live] + [self.after[name] for name in changed],
            [*self.leaves.values(), self.weights, *self.buffer_leaves.values()],
            [direction[name] for name in live] + [at_buffers[name] for name in changed],
            retain_graph=keep,
            allow_unused=True,
        )
        count = len(self.leaves)
        products, score = products_and_score[:count], products_and_score[count]
        for name, product in zip(self.leaves, products, strict=True):
            if product is not None:
                total[name].add_(product)
        for name, product in zip(self.buffer_leaves, products_and_score[count + 1 :], strict=True):
            at_buffers[name].copy_(0.0 if product is None else product)
        return score


def first_derivatives(
    loss: BatchLoss, state: TrainState, at: Params, batch: Batch
) -> tuple[float, Params, Params]:
    """A micro-batch's L, its gradient in the tensors of ``at``, and b'.

    ``at`` contains parameters, and possibly buffers, of the state. With activation checkpointing if
    the loss is a :class:`~engine.replay.checkpointed_hvp.LayeredLoss`.
    """
    if isinstance(loss, LayeredLoss):
        layers = CheckpointedHVP(loss, at, batch)
        grads = layers.gradient()
        return layers.value, _named(at, grads), state.buffers
    leaves = _leaves(at)
    with torch.enable_grad():
        params, before = _replaced(state.params, leaves), _replaced(state.buffers, leaves)
        value, after = _forward(loss, params, batch, before)
        grads_at = _gradient(value, leaves, create_graph=False)
    return value.item(), grads_at, {name: buffer.detach() for name, buffer in after.items()}


def second_derivatives(
    loss: BatchLoss,
    state: TrainState,
    batch: Batch,
    directions: Iterable[Params],
    sums: Sequence[Params],
    of_buffers: Sequence[Params] | None = None,
) -> Tensor:
    """As :meth:`GradientGraph.vjp`; with activation checkpointing for a layered loss."""
    if isinstance(loss, LayeredLoss):
        return _stacked(CheckpointedHVP(loss, state.params, batch, list(directions)).vjp(sums))
    graph = GradientGraph(loss, state.params, batch, state.buffers)
    return graph.vjp(directions, sums, of_buffers)


def needs_all_directions(loss: BatchLoss, parts: int) -> bool:
    """Whether a step with this many micro-batches uses every direction more than once."""
    return parts > 1 or isinstance(loss, LayeredLoss)


def _stacked(scores: Sequence[Tensor | None]) -> Tensor:
    dependent = [score for score in scores if score is not None]
    if len(dependent) < len(scores):
        raise TypeError(
            "the loss does not depend on example_weight; for a transformers model use "
            "engine.CausalLMLoss(model), or set model.loss_function to "
            "engine.weighted_causal_lm_ce"
        )
    return torch.stack(dependent).detach()


def _named(params: Params, grads: Sequence[Tensor | None]) -> Params:
    """Gradients by name, each in memory of its own; zeros where the loss does not depend on one."""
    pairs = zip(grads, params.values(), strict=True)
    own = _separate([torch.zeros_like(p) if g is None else g for g, p in pairs])
    return dict(zip(params, own, strict=True))


def _leaves(params: Params) -> Params:
    return {name: tensor.detach().requires_grad_() for name, tensor in params.items()}


def _replaced(tensors: Params, others: Params) -> Params:
    """``tensors``, with those of ``others`` in place of the ones of the same name."""
    return {name: others.get(name, tensor) for name, tensor in tensors.items()}


def _forward(
    loss: BatchLoss, params: Params, batch: Batch, buffers: Params
) -> tuple[Tensor, Params]:
    """L and b'."""
    return loss.with_buffers(params, batch, buffers) if buffers else (loss(params, batch), {})


def _gradient(loss: Tensor, leaves: Params, *, create_graph: bool) -> Params:
    grads = torch.autograd.grad(
        loss,
        list(leaves.values()),
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    if not create_graph:
        grads = _separate(grads)
    return dict(zip(leaves, grads, strict=True))


def _separate(grads: Sequence[Tensor]) -> tuple[Tensor, ...]:
    # Autograd may return one tensor for two parameters, or one number expanded to a shape.
    # Sums are in place, and files hold contiguous tensors, so each needs its own memory.
    seen: set[int] = set()
    own = []
    for grad in grads:
        dense = grad.contiguous()
        if dense.untyped_storage().data_ptr() in seen:
            dense = dense.clone()
        seen.add(dense.untyped_storage().data_ptr())
        own.append(dense)
    return tuple(own)
