"""Compute the engine's scores of a problem and compare them with the oracle's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from engine import DataStream, Scores, Trainer
from engine.models.layers import layers_of
from engine.replay.checkpointing import CheckpointingKind
from engine.replay.optimizers import build_optimizer
from engine.replay.state import TrainState
from engine.training.query_loss import QueryLoss, query_losses_of, scaled
from tests.exactness import oracle
from tests.exactness.cases import BATCH_SIZE, Data, make_queries
from tests.exactness.conftest import Agree

BOUND = 1e-9
"""The largest relative error that a score may have in float64."""
Reduction = Literal["none", "mean", "sum", "contrast"]
QUERIES = 2
COEFFICIENTS: dict[Reduction, list[list[float]]] = {
    "none": [[1, 0, 0, 0], [0, 1, 0, 0]],
    "mean": [[1 / 2, 1 / 2, 0, 0]],
    "sum": [[1, 1, 0, 0]],
    "contrast": [[1 / 2, 1 / 2, -1 / 2, -1 / 2]],
}
"""Measurements as weighted sums over the two queries and the two contrast queries."""


@dataclass(frozen=True)
class Problem:
    """Everything that scores depend on; ``weights`` are (documents,) or (rows, tokens)."""

    loss: nn.Module
    data: Data
    training: oracle.Training
    weights: Tensor

    def stream(self) -> DataStream:
        """The training's stream under the data weights."""
        shape = tuple(self.weights.shape)
        order = self.training.order
        stream = DataStream(self.data.rows, BATCH_SIZE, weight_shape=shape, order=order)
        stream.weights = self.weights
        return stream


@dataclass(frozen=True)
class Attribution:
    """Options of training and replay. Apart from the reduction, scores must not depend on them."""

    schedule: CheckpointingKind = "all"
    micro_batch_size: int | None = None
    reduction: Reduction = "none"
    elementwise: bool = True
    fresh: bool = False
    """Replay with a new trainer, as in another process."""
    queries_per_pass: int | None = None
    recompute: bool = False


def make_trainer(
    loss: nn.Module, training: oracle.Training, how: Attribution
) -> tuple[Trainer, TrainState]:
    """A trainer of the engine for a training of the oracle, and s_0.

    It skips the comparison with finite differences, which ``test_derivative_check.py`` tests.
    """
    trainer, start = Trainer.initialize(
        loss,
        build_optimizer(training.optimizer, training.rate),
        micro_batch_size=how.micro_batch_size,
        max_grad_norm=training.max_grad_norm,
        elementwise=how.elementwise,
        activation_checkpointing=layers_of(loss) if how.recompute else (),
    )
    trainer.checks_derivatives = False
    return trainer, start


def query_streams() -> tuple[DataStream, DataStream]:
    """The queries and the contrast queries."""
    rows = [{name: row[name] for name in ("input_ids", "labels")} for row in make_queries().rows]
    return DataStream(rows[:QUERIES], 1), DataStream(rows[QUERIES:], 1)


def make_measurements(
    reduction: Reduction, dtype: torch.dtype = torch.float64
) -> Sequence[QueryLoss]:
    """The measurements of :data:`COEFFICIENTS`."""
    queries, others = query_streams()
    if reduction != "contrast":
        return query_losses_of(queries, reduction, dtype)
    (ours,) = query_losses_of(queries, "mean", dtype)
    (theirs,) = query_losses_of(others, "mean", dtype)
    return [[*ours, *(scaled(batch, -1.0) for batch in theirs)]]


def attribute(problem: Problem, how: Attribution, folder: Path) -> Scores:
    """The engine's scores: train, store the trajectory, replay it."""
    stream = problem.stream()
    trainer, start = make_trainer(problem.loss, problem.training, how)
    trainer.train(start, stream, save_dir=folder, checkpointing=how.schedule)
    if how.fresh:
        trainer, _ = make_trainer(problem.loss, problem.training, how)
    measurements = make_measurements(how.reduction, trainer.dtype)
    return trainer.backward(folder, stream, measurements, queries_per_pass=how.queries_per_pass)


def exact_language_model(
    model: nn.Module, data: Data, token_weights: Tensor, training: oracle.Training
) -> oracle.Exact:
    """The oracle's derivatives of all query losses."""
    losses_of = oracle.language_model_losses(model)
    start, queries = oracle.leaves_of(model), make_queries().tokens
    return oracle.exact(losses_of, start, data.tokens, token_weights, training, queries)


def compare(
    agree: Agree,
    group: str,
    problem: Problem,
    how: Attribution,
    ours: Scores,
    truth: oracle.Exact,
) -> None:
    """Assert that scores, their sums over steps and the measurements are the oracle's."""
    exact = truth.combined(COEFFICIENTS[how.reduction])
    scores, data = exact.weights, problem.data
    if problem.weights.ndim == 1:
        scores = oracle.by_document(scores, data.documents, data.document_count)
    agree(group, ours.weights, scores, BOUND)
    agree(group, ours.steps, exact.steps, BOUND)
    torch.testing.assert_close(ours.query_losses, exact.phi, rtol=1e-9, atol=1e-12)


def check(
    agree: Agree,
    group: str,
    model: nn.Module,
    problem: Problem,
    how: Attribution,
    folder: Path,
) -> None:
    """Assert that the engine's scores of a problem are the oracle's."""
    data = problem.data
    tokens = problem.weights
    if tokens.ndim == 1:
        tokens = data.token_weights(tokens)
    truth = exact_language_model(model, data, tokens, problem.training)
    compare(agree, group, problem, how, attribute(problem, how, folder), truth)
