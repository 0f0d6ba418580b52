"""One training step and its vector-Jacobian product.

The step is s_t → s_{t+1}: g = ∇_θ L_t, then (θ', o') = h(θ, o, g); buffers b' are what the
forward pass of L_t leaves. Given the cotangent λ at s_{t+1}, its VJP (arXiv 2504.16430, one step
of REPLAY) is

1. optimizer stage: (a_θ, a_o, u) = VJP of h at (θ_t, o_t, g_t);
2. model stage: with M = ⟨u, ∇_θ L_t⟩ + ⟨λ_b, b'⟩, the cotangent at θ_t is a_θ + ∇_θ M, that at
   b_t is ∇_b M, and the score of a data weight w is ∂M/∂w.

The model stage is reverse over reverse: the graph of g_t is built once and every cotangent is
pulled back through it, so that all queries share the first-order work. Training, rebuilding and
replay all run through the one :class:`TrainStep`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from engine.magic.layerwise import LayeredLoss, Layerwise
from engine.magic.optimizer_stage import OptimizerStage
from engine.magic.ranks import ALONE, Ranks
from engine.magic.state import Batch, BatchLoss, Cotangent, Gradient, Params, TrainState

DIRECTIONS = 4
"""Directions u that the optimizer stage gives at a time: each is as large as the parameters, and
what it works out for all queries in common costs little beside the model stage."""


@dataclass(frozen=True)
class StepReport:
    """What a training step measured: loss before the update, gradient norm before clipping."""

    loss: float
    gradient_norm: float


class TrainStep:
    """The one step function; owns every knob that a number depends on."""

    def __init__(
        self,
        loss: BatchLoss,
        stage: OptimizerStage,
        micro_batch_size: int | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Combine a batch loss with an optimizer.

        Args:
            loss: of this rank's shards of the parameters.
            stage: the optimizer of these shards.
            micro_batch_size: rows of a rank differentiated at a time; all if left out.
            ranks: who shares the training.
        """
        self.loss = loss
        self.stage = stage
        self.micro_batch_size = micro_batch_size
        self.ranks = ranks

    def start(self, params: Params, buffers: Params | None = None) -> TrainState:
        """s_0 for these parameters and buffers."""
        return TrainState(0, params, self.stage.init(params), buffers or {})

    def gradient(self, state: TrainState, batch: Batch) -> tuple[float, Gradient]:
        """L_t and what it gives the update."""
        loss, grads, buffers = self._differentiate(state, state.params, batch, self.ranks)
        return loss, Gradient(self.ranks.sum_groups(grads), buffers)

    def derivative(self, state: TrainState, batch: Batch) -> tuple[float, Params]:
        """(L, ∂L/∂(θ, b)) by name, over this rank's group: of a measurement."""
        loss, grads, _ = self._differentiate(state, state.differentiable, batch, self.ranks.group)
        return loss, grads

    def _differentiate(
        self, state: TrainState, at: Params, batch: Batch, ranks: Ranks
    ) -> tuple[float, Params, Params]:
        """L, its derivative in those tensors of a state that ``at`` names, and b'.

        Summed over the micro-batches in order and over ``ranks``; a batch that changes buffers
        is a single one.
        """
        total, grads, buffers = 0.0, None, state.buffers
        for part in ranks.own_rows(batch).split(self.micro_batch_size):
            with ranks.graph():
                value, found, buffers = first_derivatives(self.loss, state, at, part)
            grads = _add(grads, found)
            total += value
        assert grads is not None
        return ranks.sum(torch.tensor(total, dtype=torch.float64)).item(), grads, buffers

    def advance(self, state: TrainState, batch: Batch) -> tuple[TrainState, Gradient, StepReport]:
        """s_{t+1}, g_t and what was measured on the way."""
        loss, grads = self.gradient(state, batch)
        report = StepReport(loss, self.stage.norm(grads.params).item())
        return self.apply(state, grads), grads, report

    def apply(self, state: TrainState, grads: Gradient) -> TrainState:
        """s_{t+1} from s_t and a known g_t: the optimizer alone, the same bits as training."""
        params, optimizer = self.stage.update(state.params, state.optimizer, grads.params)
        return TrainState(state.step + 1, params, optimizer, grads.buffers)

    def parts(self, batch: Batch) -> list[Batch]:
        """The micro-batches of a rank that replays."""
        return list(self.ranks.group.own_rows(batch).split(self.micro_batch_size))

    def pull_back(
        self, state: TrainState, grads: Gradient, batch: Batch, cotangents: Sequence[Cotangent]
    ) -> Tensor:
        """Carry cotangents at s_{t+1} back to s_t, in place; returns the step's scores.

        Args:
            state: s_t.
            grads: g_t as :meth:`gradient` gives it. A gradient computed together with the graph
                of its own derivative may differ in the last bits, because some operations have
                two formulas; with this one the scores do not depend on where g_t came from.
            batch: what step t trained on.
            cotangents: one per query; overwritten.

        Returns:
            ∂M/∂w, with one leading axis of cotangents before the shape of the weights.
        """
        if not cotangents:
            return batch.weights.new_zeros((0, *batch.weights.shape))
        sums, ranks = [cotangent.params for cotangent in cotangents], self.ranks.group
        of_buffers = [cotangent.buffers for cotangent in cotangents]
        parts = self.parts(batch)
        directions: Iterable[Params] = self._directions(state, grads, cotangents)
        if needs_all_directions(self.loss, len(parts)):
            directions = list(directions)
        else:
            # The first are worked out before there is a graph to hold beside their temporaries.
            directions = chain([next(iter(directions))], directions)
        with ranks.graph():
            scores = [
                second_derivatives(self.loss, state, part, directions, sums, of_buffers)
                for part in parts
            ]
        return ranks.all_rows(torch.cat(scores, dim=1), batch.weights.shape[0])

    def _directions(
        self, state: TrainState, grads: Gradient, cotangents: Sequence[Cotangent]
    ) -> Iterator[Params]:
        """Each cotangent's u, once the cotangent is overwritten by (a_θ, a_o)."""
        for first in range(0, len(cotangents), DIRECTIONS):
            some = cotangents[first : first + DIRECTIONS]
            found = self.stage.vjp(state.params, state.optimizer, grads.params, some)
            while found:
                yield found.pop(0)


class FirstOrder:
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

    def pull_back(
        self,
        directions: Iterable[Params],
        sums: Sequence[Params],
        of_buffers: Sequence[Params] | None = None,
    ) -> Tensor:
        """Pull every direction u, with its λ_b if there are buffers, back through the graph.

        The graph is freed on the way.

        Args:
            directions: the u, as many as ``sums``; each is let go before the next is asked for.
            sums: ∇_θ M is added to them.
            of_buffers: the λ_b, overwritten by ∇_b M.

        Returns:
            ∂M/∂w, one row a direction.
        """
        live = [name for name, grad in self.grads.items() if grad.requires_grad]
        changed = [name for name in self.buffer_leaves if self.after[name].requires_grad]
        ends = [self.grads[name] for name in live] + [self.after[name] for name in changed]
        sources = [*self.leaves.values(), self.weights, *self.buffer_leaves.values()]
        scores = []
        pairs = zip(directions, sums, of_buffers or [{}] * len(sums), strict=True)
        for number, (direction, total, at_buffers) in enumerate(pairs, start=1):
            found = torch.autograd.grad(
                ends,
                sources,
                [direction[name] for name in live] + [at_buffers[name] for name in changed],
                retain_graph=number < len(sums),
                allow_unused=True,
            )
            products, score = found[: len(self.leaves)], found[len(self.leaves)]
            for name, product in zip(self.leaves, products, strict=True):
                if product is not None:
                    total[name].add_(product)
            for name, product in zip(self.buffer_leaves, found[len(products) + 1 :], strict=True):
                at_buffers[name].copy_(0.0 if product is None else product)
            scores.append(score)
        self.grads, self.after = {}, {}
        return _stacked(scores)


def first_derivatives(
    loss: BatchLoss, state: TrainState, at: Params, batch: Batch
) -> tuple[float, Params, Params]:
    """A micro-batch's L, its derivative in those tensors of a state that ``at`` names, and b'.

    Layer by layer if the loss can be cut.
    """
    if isinstance(loss, LayeredLoss):
        layers = Layerwise(loss, at, batch)
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
    """As :meth:`FirstOrder.pull_back`, layer by layer if the loss can be cut."""
    if isinstance(loss, LayeredLoss):
        return _stacked(Layerwise(loss, state.params, batch, list(directions)).pull_back(sums))
    graph = FirstOrder(loss, state.params, batch, state.buffers)
    return graph.pull_back(directions, sums, of_buffers)


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


def _add(total: Params | None, grads: Params) -> Params:
    if total is None:
        return grads
    for name, grad in grads.items():
        total[name].add_(grad)
    return total
