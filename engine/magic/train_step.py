"""One training step and its vector-Jacobian product.

The step is s_t → s_{t+1}: g = ∇_θ L_t, then (θ', o') = h(θ, o, g). Given the cotangent λ at
s_{t+1}, its VJP (arXiv 2504.16430, one step of REPLAY) is

1. optimizer stage: (a_θ, a_o, u) = VJP of h at (θ_t, o_t, g_t);
2. model stage: with D_u L = ⟨u, ∇_θ L_t⟩, the cotangent at θ_t is a_θ + ∇_θ D_u L_t and the
   score of a data weight w is ∂ D_u L_t / ∂w.

The model stage is reverse over reverse: the graph of g_t is built once and every cotangent is
pulled back through it, so that all queries share the first-order work. Training, rebuilding and
replay all run through the one :class:`TrainStep`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.magic.layerwise import LayeredLoss, Layerwise
from engine.magic.optimizer_stage import OptimizerStage
from engine.magic.ranks import ALONE, Ranks
from engine.magic.state import Batch, BatchLoss, Cotangent, Params, TrainState


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

    def start(self, params: Params) -> TrainState:
        """s_0 for these parameters."""
        return TrainState(0, params, self.stage.init(params))

    def gradient(
        self, params: Params, batch: Batch, ranks: Ranks | None = None
    ) -> tuple[float, Params]:
        """(L_t, ∇_θ L_t), summed over the micro-batches in order and over ``ranks``.

        ``ranks`` are all that share the training unless given.
        """
        ranks = ranks or self.ranks
        total, grads = 0.0, None
        for part in ranks.own_rows(batch).split(self.micro_batch_size):
            with ranks.graph():
                value, found = first_derivatives(self.loss, params, part)
            grads = _add(grads, found)
            total += value
        assert grads is not None
        return ranks.sum(torch.tensor(total, dtype=torch.float64)).item(), ranks.sum_groups(grads)

    def advance(self, state: TrainState, batch: Batch) -> tuple[TrainState, Params, StepReport]:
        """s_{t+1}, g_t and what was measured on the way."""
        loss, grads = self.gradient(state.params, batch)
        report = StepReport(loss, self.stage.norm(grads).item())
        return self.apply(state, grads), grads, report

    def apply(self, state: TrainState, grads: Params) -> TrainState:
        """s_{t+1} from s_t and a known g_t: the optimizer alone, the same bits as training."""
        params, optimizer = self.stage.update(state.params, state.optimizer, grads)
        return TrainState(state.step + 1, params, optimizer)

    def pull_back(
        self, state: TrainState, grads: Params, batch: Batch, cotangents: Sequence[Cotangent]
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
            ∂ D_u L_t/∂w, with one leading axis of cotangents before the shape of the weights.
        """
        if not cotangents:
            return batch.weights.new_zeros((0, *batch.weights.shape))
        directions = self.stage.vjp(state.params, state.optimizer, grads, cotangents)
        sums, ranks = [cotangent.params for cotangent in cotangents], self.ranks.group
        with ranks.graph():
            scores = [
                second_derivatives(self.loss, state.params, part, directions, sums)
                for part in ranks.own_rows(batch).split(self.micro_batch_size)
            ]
        return ranks.all_rows(torch.cat(scores, dim=1), batch.weights.shape[0])


class FirstOrder:
    """The graph of one micro-batch's gradient, kept to be differentiated again."""

    def __init__(self, loss: BatchLoss, params: Params, batch: Batch) -> None:
        self.leaves = _leaves(params)
        self.weights = batch.weights.detach().requires_grad_()
        with torch.enable_grad():
            value = loss(self.leaves, replace(batch, weights=self.weights))
            self.grads = _gradient(value, self.leaves, create_graph=True)

    def pull_back(self, directions: Sequence[Params], sums: Sequence[Params]) -> Tensor:
        """Add ∇_θ D_u L into ``sums`` for each direction u; return ∂ D_u L/∂w, one row a u.

        The graph is freed on the way.
        """
        live = [name for name, grad in self.grads.items() if grad.requires_grad]
        sources = [*self.leaves.values(), self.weights]
        scores = []
        for number, (direction, total) in enumerate(zip(directions, sums, strict=True), start=1):
            *products, score = torch.autograd.grad(
                [self.grads[name] for name in live],
                sources,
                [direction[name] for name in live],
                retain_graph=number < len(directions),
                allow_unused=True,
            )
            for name, product in zip(self.leaves, products, strict=True):
                if product is not None:
                    total[name].add_(product)
            scores.append(score)
        self.grads = {}
        return _stacked(scores)


def first_derivatives(loss: BatchLoss, params: Params, batch: Batch) -> tuple[float, Params]:
    """A micro-batch's loss and gradient, layer by layer if the loss can be cut."""
    if isinstance(loss, LayeredLoss):
        layers = Layerwise(loss, params, batch)
        grads = layers.gradient()
        return layers.value, _named(params, grads)
    leaves = _leaves(params)
    with torch.enable_grad():
        value = loss(leaves, batch)
        return value.item(), _gradient(value, leaves, create_graph=False)


def second_derivatives(
    loss: BatchLoss,
    params: Params,
    batch: Batch,
    directions: Sequence[Params],
    sums: Sequence[Params],
) -> Tensor:
    """As :meth:`FirstOrder.pull_back`, layer by layer if the loss can be cut."""
    if isinstance(loss, LayeredLoss):
        return _stacked(Layerwise(loss, params, batch, directions).pull_back(sums))
    return FirstOrder(loss, params, batch).pull_back(directions, sums)


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
