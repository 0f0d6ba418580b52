"""One training step and its vector-Jacobian product.

The step is s_t → s_{t+1}: g = ∇_θ L_t, then (θ', o') = h(θ, o, g); the buffers b' are those after
the forward pass of L_t. Given the cotangent λ at s_{t+1}, its VJP (arXiv 2504.16430, one step
of REPLAY) is

1. optimizer stage: (a_θ, a_o, u) = VJP of h at (θ_t, o_t, g_t);
2. model stage: with M = ⟨u, ∇_θ L_t⟩ + ⟨λ_b, b'⟩, the cotangent at θ_t is a_θ + ∇_θ M, that at
   b_t is ∇_b M, and the score of a data weight w is ∂M/∂w.

The model stage uses reverse over reverse: the graph of g_t is built once, and one backward pass
through it gives each cotangent's VJP, so all queries share the first-order work. Training,
recomputation and replay all use the one :class:`TrainStep`.
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
    """The loss before the update and the gradient norm before clipping."""

    loss: float
    gradient_norm: float


class TrainStep:
    """The step function; holds every option that affects its result."""

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
            micro_batch_size: rows that a rank differentiates at a time; default all.
            ranks: the ranks that share the training.
        """
        self.loss = loss
        self.stage = stage
        self.micro_batch_size = micro_batch_size
        self.ranks = ranks

    def start(self, params: Params, buffers: Params | None = None) -> TrainState:
        """s_0 for these parameters and buffers."""
        return TrainState(0, params, self.stage.init(params), buffers or {})

    def gradient(self, state: TrainState, batch: Batch) -> tuple[float, Gradient]:
        """L_t and the gradient."""
        loss, grads, buffers = self._differentiate(state, state.params, batch, self.ranks)
        return loss, Gradient(self.ranks.sum_over_replicas(grads), buffers)

    def derivative(self, state: TrainState, batch: Batch) -> tuple[float, Params]:
        """(L, ∂L/∂(θ, b)) of a measurement, summed over this rank's shard group."""
        loss, grads, _ = self._differentiate(
            state, state.differentiable, batch, self.ranks.shard_group
        )
        return loss, grads

    def _differentiate(
        self, state: TrainState, at: Params, batch: Batch, ranks: Ranks
    ) -> tuple[float, Params, Params]:
        """L, its gradient in the tensors of ``at``, and b'.

        Summed over the micro-batches in order, and over ``ranks``. A batch that changes buffers
        has one micro-batch.
        """
        total, grads, buffers = 0.0, None, state.buffers
        for part in ranks.own_rows(batch).split(self.micro_batch_size):
            with ranks.graph():
                value, part_grads, buffers = first_derivatives(self.loss, state, at, part)
            grads = _add(grads, part_grads)
            total += value
        assert grads is not None
        return ranks.sum(torch.tensor(total, dtype=torch.float64)).item(), grads, buffers

    def advance(self, state: TrainState, batch: Batch) -> tuple[TrainState, Gradient, StepReport]:
        """s_{t+1}, g_t, and the step's report."""
        loss, grads = self.gradient(state, batch)
        report = StepReport(loss, self.stage.norm(grads.params).item())
        return self.apply(state, grads), grads, report

    def apply(self, state: TrainState, grads: Gradient) -> TrainState:
        """s_{t+1} from s_t and a known g_t, by the optimizer alone; the same bits as training."""
        params, optimizer = self.stage.update(state.params, state.optimizer, grads.params)
        return TrainState(state.step + 1, params, optimizer, grads.buffers)

    def parts(self, batch: Batch) -> list[Batch]:
        """The micro-batches of this rank during replay."""
        return list(self.ranks.shard_group.own_rows(batch).split(self.micro_batch_size))

    def vjp(
        self, state: TrainState, grads: Gradient, batch: Batch, cotangents: Sequence[Cotangent]
    ) -> Tensor:
        """The VJP of step t for several queries: overwrites ``cotangents``, returns the scores.

        The cotangents at s_{t+1} become the cotangents at s_t. No other argument changes.

        Args:
            state: s_t.
            grads: g_t as :meth:`gradient` returns it. A gradient computed together with its graph
                may differ in the last bits, because some operations have two formulas. With this
                one the scores do not depend on whether g_t was stored or recomputed.
            batch: the batch of step t.
            cotangents: one per query, at s_{t+1}; overwritten with those at s_t.

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
            # Each is as large as the parameters. The first is computed before the graph exists, so
            # its temporaries and the graph are not in memory together.
            others = (self.stage.vjp(*at, [each])[0] for each in cotangents[1:])
            directions = _one_at_a_time(self.stage.vjp(*at, cotangents[:1]), others)
        with ranks.graph():
            scores = [
                second_derivatives(self.loss, state, part, directions, sums, of_buffers)
                for part in parts
            ]
        return ranks.all_rows(torch.cat(scores, dim=1), batch.weights.shape[0])


def _one_at_a_time(first: list[Params], others: Iterable[Params]) -> Iterator[Params]:
    """Yield directions one at a time without keeping a reference."""
    yield first.pop()
    yield from others


def _add(total: Params | None, grads: Params) -> Params:
    if total is None:
        return grads
    for name, grad in grads.items():
        total[name].add_(grad)
    return total
