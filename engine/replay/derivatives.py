"""Derivatives of one micro-batch's loss: first ones, and second ones along a query's direction.

Second derivatives are taken in reverse over reverse: the graph of the gradient is built once and
every direction is pulled back through it, so that all queries share the first-order work.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from engine.replay.checkpointed_hvp import CheckpointedHVP, LayeredLoss
from engine.replay.state import Batch, BatchLoss, Params, TrainState


class GradientGraph:
    """The graph of one micro-batch's gradient and buffers, kept to be differentiated again."""

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
        """Pull every direction u, with its λ_b if there are buffers, back through the graph.

        The graph is freed on the way.

        Args:
            directions: the u, as many as ``sums``, taken one after the other.
            sums: ∇_θ M is added to them.
            of_buffers: the λ_b, overwritten by ∇_b M.

        Returns:
            ∂M/∂w, one row a direction.
        """
        upcoming, scores = iter(directions), []
        targets = list(zip(sums, of_buffers or [{}] * len(sums), strict=True))
        for number, (total, at_buffers) in enumerate(targets, start=1):
            keep = number < len(targets)
            # No name for the direction here: it must be gone before the next is worked out.
            scores.append(self._vjp_one(next(upcoming), total, at_buffers, keep))
        self.grads, self.after = {}, {}
        return _stacked(scores)

    def _vjp_one(
        self, direction: Params, total: Params, at_buffers: Params, keep: bool
    ) -> Tensor | None:
        live = [name for name, grad in self.grads.items() if grad.requires_grad]
        changed = [name for name in self.buffer_leaves if self.after[name].requires_grad]
        found = torch.autograd.grad(
            [self.grads[name] for name in live] + [self.after[name] for name in changed],
            [*self.leaves.values(), self.weights, *self.buffer_leaves.values()],
            [direction[name] for name in live] + [at_buffers[name] for name in changed],
            retain_graph=keep,
            allow_unused=True,
        )
        products, score = found[: len(self.leaves)], found[len(self.leaves)]
        for name, product in zip(self.leaves, products, strict=True):
            if product is not None:
                total[name].add_(product)
        for name, product in zip(self.buffer_leaves, found[len(products) + 1 :], strict=True):
            at_buffers[name].copy_(0.0 if product is None else product)
        return score


def first_derivatives(
    loss: BatchLoss, state: TrainState, at: Params, batch: Batch
) -> tuple[float, Params, Params]:
    """A micro-batch's L, its derivative in those tensors of a state that ``at`` names, and b'.

    Layer by layer if the loss can be cut.
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
    """As :meth:`GradientGraph.vjp`, layer by layer if the loss can be cut."""
    if isinstance(loss, LayeredLoss):
        return _stacked(CheckpointedHVP(loss, state.params, batch, list(directions)).vjp(sums))
    graph = GradientGraph(loss, state.params, batch, state.buffers)
    return graph.vjp(directions, sums, of_buffers)


def needs_all_directions(loss: BatchLoss, parts: int) -> bool:
    """Whether a step of so many micro-batches comes to every direction more than once."""
    return parts > 1 or isinstance(loss, LayeredLoss)


def _stacked(scores: Sequence[Tensor | None]) -> Tensor:
    found = [score for score in scores if score is not None]
    if len(found) < len(scores):
        raise TypeError(
            "the loss does not depend on example_weight; for a transformers model use "
            "engine.CausalLMLoss(model), or set model.loss_function to "
            "engine.weighted_causal_lm_ce"
        )
    return torch.stack(found).detach()


def _named(params: Params, grads: Sequence[Tensor | None]) -> Params:
    """Gradients by name, each a tensor of its own; of what the loss depends on not, zero."""
    pairs = zip(grads, params.values(), strict=True)
    own = _separate([torch.zeros_like(p) if g is None else g for g, p in pairs])
    return dict(zip(params, own, strict=True))


def _leaves(params: Params) -> Params:
    return {name: tensor.detach().requires_grad_() for name, tensor in params.items()}


def _replaced(tensors: Params, others: Params) -> Params:
    """The same names, with the tensors of ``others`` where it has them."""
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
    # Autograd may hand out one tensor for two parameters, or one number expanded to a shape;
    # sums are taken in place, and files hold whole tensors.
    seen: set[int] = set()
    own = []
    for grad in grads:
        dense = grad.contiguous()
        if dense.untyped_storage().data_ptr() in seen:
            dense = dense.clone()
        seen.add(dense.untyped_storage().data_ptr())
        own.append(dense)
    return tuple(own)
