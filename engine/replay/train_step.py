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
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.replay.derivatives import (
    first_derivatives,
    needs_all_directions,
    second_derivatives,
)
from engine.replay.optimizer_stage import OptimizerStage
from engine.replay.ranks import SINGLE_RANK, Ranks
from engine.replay.state import Batch, BatchLoss, Cotangent, Gradient, Params, TrainState


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
        ranks: Ranks = SINGLE_RANK,
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
        return loss, Gradient(self.ranks.sum_over_replicas(grads), buffers)

    def derivative(self, state: TrainState, batch: Batch) -> tuple[float, Params]:
        """(L, ∂L/∂(θ, b)) by name, over this rank's group: of a measurement."""
        loss, grads, _ = self._differentiate(
            state, state.differentiable, batch, self.ranks.shard_group
        )
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
        return list(self.ranks.shard_group.own_rows(batch).split(self.micro_batch_size))

    def vjp(
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
        sums, ranks = [cotangent.params for cotangent in cotangents], self.ranks.shard_group
        of_buffers = [cotangent.buffers for cotangent in cotangents]
        parts = self.parts(batch)
        at = (state.params, state.optimizer, grads.params)
        directions: Iterable[Params]
        if needs_all_directions(self.loss, len(parts)):
            directions = self.stage.vjp(*at, cotangents)
        else:
            # Each is as large as the parameters. The first is worked out before there is a graph
            # to hold beside the temporaries.
            others = (self.stage.vjp(*at, [each])[0] for each in cotangents[1:])
            directions = _in_turn(self.stage.vjp(*at, cotangents[:1]), others)
        with ranks.graph():
            scores = [
                second_derivatives(self.loss, state, part, directions, sums, of_buffers)
                for part in parts
            ]
        return ranks.all_rows(torch.cat(scores, dim=1), batch.weights.shape[0])


def _in_turn(first: list[Params], others: Iterable[Params]) -> Iterator[Params]:
    """One after the other; whoever takes one is the only one to hold it."""
    yield first.pop()
    yield from others


def _add(total: Params | None, grads: Params) -> Params:
    if total is None:
        return grads
    for name, grad in grads.items():
        total[name].add_(grad)
    return total
