"""Data and trainings small enough to be checked against the oracle."""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from engine.data.rows import batch_order
from engine.replay.optimizers import LearningRateSpec, OptimizerSpec
from tests.exactness.oracle import Tokens, Training
from tests.exactness.tiny_models import VOCABULARY

Layout = Literal["rows", "packed"]

BATCH_SIZE = 3
OPTIMIZERS = {
    "adamw": OptimizerSpec("adamw", 0.02, (0.8, 0.95), 1e-6, 1e-8, weight_decay=0.3),
    "adam": OptimizerSpec("adam", 0.02, (0.8, 0.95), 1e-6, 1e-8, weight_decay=0.1),
    "sgd": OptimizerSpec("sgd", 0.2, weight_decay=0.1, momentum=0.8),
}
ACTIVE_CLIP = 0.2
"""Below the gradient norms of the tiny models, which are about 1."""


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
    """Two queries of different lengths, one of them with a prompt, and two to contrast."""
    random = np.random.default_rng(11)
    lengths, prompts = [5, 7, 4, 6], [0, 3, 0, 2]
    ids = [random.integers(3, VOCABULARY, length) for length in lengths]
    targets = [_masked(n, prompt) for n, prompt in zip(lengths, prompts, strict=True)]
    return _data(ids, targets, [np.full(n, row) for row, n in enumerate(lengths)])


def make_training(
    optimizer: str = "adamw",
    rate: str = "constant",
    clip: bool = False,
    epochs: int = 2,
) -> Training:
    """A training of seven rows by threes, so that the last batch of an epoch is smaller."""
    order = batch_order(7, batch_size=BATCH_SIZE, epochs=epochs, seed=5, shuffle=True)
    shape = {"warmup_fraction": 0.3} if rate in ("linear", "cosine") else {}
    if rate == "one_cycle":
        shape = {"peak_fraction": 0.4, "start_factor": 0.1, "end_factor": 0.05}
    spec = LearningRateSpec(rate, len(order), **shape)  # type: ignore[arg-type]
    return Training(OPTIMIZERS[optimizer], spec, ACTIVE_CLIP if clip else None, order)


def document_weights(data: Data) -> Tensor:
    """Data weights that are not 1, one a document."""
    generator = torch.Generator().manual_seed(3)
    return 0.5 + torch.rand(data.document_count, generator=generator, dtype=torch.float64)
