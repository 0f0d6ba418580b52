"""Data, trainings and attributions small enough to be checked against the oracle."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from engine import DataStream, Scores, Trainer
from engine.data.order import batch_order
from engine.magic.optimizers import LearningRateSpec, OptimizerSpec, build_optimizer
from engine.magic.schedule import ScheduleKind
from engine.trainer import Measurement, measurements_of, scaled
from tests.exactness.oracle import Tokens, Training
from tests.exactness.tiny_models import VOCABULARY

Layout = Literal["rows", "packed"]
Reduction = Literal["none", "mean", "sum", "contrast"]

BATCH_SIZE = 3
OPTIMIZERS = {
    "adamw": OptimizerSpec("adamw", 0.02, (0.8, 0.95), 1e-6, 1e-8, weight_decay=0.3),
    "adam": OptimizerSpec("adam", 0.02, (0.8, 0.95), 1e-6, 1e-8, weight_decay=0.1),
    "sgd": OptimizerSpec("sgd", 0.2, weight_decay=0.1, momentum=0.8),
}
ACTIVE_CLIP = 0.2
"""Below the gradient norms of the tiny models, which are about 1."""
COEFFICIENTS: dict[Reduction, list[list[float]]] = {
    "none": [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]],
    "mean": [[1 / 3, 1 / 3, 1 / 3, 0, 0]],
    "sum": [[1, 1, 1, 0, 0]],
    "contrast": [[1 / 3, 1 / 3, 1 / 3, -1 / 2, -1 / 2]],
}
"""Measurements as sums over the three queries and the two they are contrasted with."""
QUERIES, CONTRASTED = 3, 2


@dataclass(frozen=True)
class Data:
    """Rows as the oracle reads them (padded to one width) and as a stream does."""

    tokens: Tokens
    documents: Tensor
    """(rows, tokens), -1 for padding."""
    rows: list[dict[str, Any]]

    @property
    def document_count(self) -> int:
        """The number of documents."""
        return int(self.documents.max()) + 1

    def token_weights(self, document_weights: Tensor) -> Tensor:
        """One weight a token from one a document, 0 for padding."""
        return document_weights[self.documents.clamp(min=0)] * (self.documents >= 0)


def _data(ids: list[Any], targets: list[Any], documents: list[Any]) -> Data:
    """From ragged rows; position j of a row counts if ``targets[j]``."""

    def padded(rows: list[Any], value: int) -> Tensor:
        tensors = [torch.as_tensor(row) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)

    rows = []
    for row_ids, row_targets, row_documents in zip(ids, targets, documents, strict=True):
        labels = np.full(len(row_ids), -100)
        labels[1:] = np.where(row_targets[:-1], row_ids[1:], -100)
        rows.append({"input_ids": row_ids, "labels": labels, "doc_ids": row_documents})
    return Data(Tokens(padded(ids, 0), padded(targets, False)), padded(documents, -1), rows)


def _masked(length: int, prompt: int) -> Any:
    """Targets of a document whose first ``prompt`` tokens are given, not predicted."""
    positions = np.arange(length)
    return (positions + 1 >= prompt) & (positions < length - 1)


@cache
def make_data(layout: Layout) -> Data:
    """Seven rows: documents of many lengths one a row, or joined and cut across rows.

    Both have documents with a prompt that is not predicted; in the first layout one row has
    nothing to predict at all.
    """
    random = np.random.default_rng(7)
    if layout == "rows":
        lengths, prompts = [6, 2, 8, 5, 3, 7, 4], [0, 0, 4, 5, 0, 2, 0]
        ids = [random.integers(3, VOCABULARY, length) for length in lengths]
        targets = [_masked(n, prompt) for n, prompt in zip(lengths, prompts, strict=True)]
        documents = [np.full(length, row) for row, length in enumerate(lengths)]
        return _data(ids, targets, documents)
    lengths, prompts, end = [3, 9, 1, 5, 2, 7, 4], [0, 4, 0, 0, 2, 0, 0], 2
    stream, predicted, owners = [], [], []
    for document, (length, prompt) in enumerate(zip(lengths, prompts, strict=True)):
        stream += [*random.integers(3, VOCABULARY, length).tolist(), end]
        predicted += [position >= prompt for position in range(length + 1)]
        owners += [document] * (length + 1)
    cuts = range(6, len(stream), 6)
    after = [np.append(part[1:], False) for part in np.split(np.array(predicted), cuts)]
    return _data(np.split(np.array(stream), cuts), after, np.split(np.array(owners), cuts))


@cache
def make_queries() -> Data:
    """Three queries of different lengths, one of them with a prompt, and two to contrast."""
    random = np.random.default_rng(11)
    lengths, prompts = [5, 7, 3, 4, 6], [0, 3, 0, 0, 2]
    ids = [random.integers(3, VOCABULARY, length) for length in lengths]
    targets = [_masked(n, prompt) for n, prompt in zip(lengths, prompts, strict=True)]
    return _data(ids, targets, [np.full(n, row) for row, n in enumerate(lengths)])


def make_training(
    optimizer: str = "adamw",
    rate: str = "constant",
    clip: bool = False,
    epochs: int = 2,
    rows: int = 7,
) -> Training:
    """A training of seven rows by threes, so that the last batch of an epoch is smaller."""
    order = batch_order(rows, batch_size=BATCH_SIZE, epochs=epochs, seed=5, shuffle=True)
    shape = {"warmup_fraction": 0.3} if rate in ("linear", "cosine") else {}
    if rate == "one_cycle":
        shape = {"peak_fraction": 0.4, "start_factor": 0.1, "end_factor": 0.05}
    spec = LearningRateSpec(rate, len(order), **shape)  # type: ignore[arg-type]
    return Training(OPTIMIZERS[optimizer], spec, ACTIVE_CLIP if clip else None, order)


def document_weights(data: Data) -> Tensor:
    """Data weights that are not 1, one a document."""
    generator = torch.Generator().manual_seed(3)
    return 0.5 + torch.rand(data.document_count, generator=generator, dtype=torch.float64)


def make_stream(
    data: Data, weights: Tensor, training: Training, batch_size: int = BATCH_SIZE
) -> DataStream:
    """The stream of a training with given data weights."""
    shape = tuple(weights.shape)
    stream = DataStream(data.rows, batch_size, weight_shape=shape, order=training.order)
    stream.weights = weights
    return stream


def make_measurements(
    reduction: Reduction, dtype: torch.dtype = torch.float64
) -> Sequence[Measurement]:
    """The measurements of :data:`COEFFICIENTS` as the worker makes them."""
    rows = [{k: row[k] for k in ("input_ids", "labels")} for row in make_queries().rows]
    queries = DataStream(rows[:QUERIES], 1)
    if reduction != "contrast":
        return measurements_of(queries, reduction, dtype)
    (ours,) = measurements_of(queries, "mean", dtype)
    (theirs,) = measurements_of(DataStream(rows[QUERIES:], 1), "mean", dtype)
    return [[*ours, *(scaled(batch, -1.0) for batch in theirs)]]


@dataclass(frozen=True)
class Attribution:
    """How the engine trains and replays; the scores must depend on none of it."""

    schedule: ScheduleKind = "all"
    micro_batch_size: int | None = None
    reduction: Reduction = "none"
    elementwise: bool = True
    fresh: bool = False
    """Replay with a new trainer, as a later process does."""
    queries_per_pass: int | None = None


def make_trainer(
    loss: nn.Module, training: Training, how: Attribution = Attribution()
) -> tuple[Trainer, Any]:
    """A trainer of the engine for a training of the oracle, and s_0."""
    return Trainer.initialize(
        loss,
        build_optimizer(training.optimizer, training.rate),
        micro_batch_size=how.micro_batch_size,
        max_grad_norm=training.max_grad_norm,
        elementwise=how.elementwise,
    )


def attribute(
    loss: nn.Module,
    stream: DataStream,
    training: Training,
    how: Attribution,
    folder: Path,
) -> Scores:
    """The engine's scores: train, keep the trajectory, replay it."""
    trainer, start = make_trainer(loss, training, how)
    trainer.train(start, stream, save_dir=folder, schedule=how.schedule)
    if how.fresh:
        trainer, _ = make_trainer(loss, training, how)
    measurements = make_measurements(how.reduction, trainer.dtype)
    return trainer.backward(
        folder, stream, measurements, queries_per_pass=how.queries_per_pass
    )

