"""Rows, the model's input, and the order in which training uses them.

A row holds one tokenised document, or a slice of all documents joined. The order of training is a
pure function of (seed, epoch).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.data.tokens import TokenizedDocument
from engine.runs.errors import UsageError

PADDING = -1
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Rows:
    """Rows of tokens, padded to the longest.

    Attributes:
        input_ids: (rows, tokens) token ids.
        document_ids: (rows, tokens) the document that each position belongs to, -1 for padding.
        targets: (rows, tokens) whether the loss at a position, which predicts the next one, counts;
            never in the last column.
        lengths: (rows,) the number of tokens of each row that are not padding.
    """

    input_ids: NDArray[np.int32]
    document_ids: NDArray[np.int64]
    targets: NDArray[np.bool_]
    lengths: NDArray[np.int32]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.input_ids)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays to store."""
        return {
            "input_ids": self.input_ids,
            "document_ids": self.document_ids,
            "targets": self.targets,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Rows":
        """The inverse of :meth:`arrays`."""
        document_ids, targets = arrays["document_ids"], arrays["targets"].astype(np.bool_)
        lengths = (document_ids != PADDING).sum(1, dtype=np.int32)
        return cls(arrays["input_ids"], document_ids, targets, lengths)


def one_document_a_row(tokenized: list[TokenizedDocument], pad_id: int) -> Rows:
    """One document per row, in order, padded at the end.

    Args:
        tokenized: at least one document; document i becomes row i.
        pad_id: the token id of padding.
    """
    lengths = np.array([len(document) for document in tokenized], dtype=np.int32)
    shape = (len(tokenized), int(lengths.max()))
    input_ids = np.full(shape, pad_id, dtype=np.int32)
    document_ids = np.full(shape, PADDING, dtype=np.int64)
    targets = np.zeros(shape, dtype=np.bool_)
    for i, document in enumerate(tokenized):
        input_ids[i, : len(document)] = document.input_ids
        document_ids[i, : len(document)] = i
        targets[i, : len(document)] = document.targets
    return Rows(input_ids, document_ids, targets, lengths)


def packed(
    tokenized: list[TokenizedDocument], sequence_length: int, eos_id: int | None, pad_id: int
) -> Rows:
    """Join documents, each followed by one end-of-sequence token, and cut them into rows.

    A tokenizer may have added the end-of-sequence token already. It belongs to the document that it
    ends, and is predicted. A position is a target, of its own document, if the next position of its
    row is a predicted token, of the same document or the following one.

    Args:
        tokenized: at least one document, not cut.
        sequence_length: tokens per row; the last of several rows is padded.
        eos_id: the tokenizer's end-of-sequence token, None if it has none.
        pad_id: the token id of padding.

    Raises:
        UsageError: if the tokenizer has no end-of-sequence token.
    """
    if eos_id is None:
        raise UsageError(
            "data.packing: the tokenizer has no end-of-sequence token to join documents with; "
            "set packing: false or give the tokenizer an eos_token."
        )
    ended = [_ended(one, eos_id) for one in tokenized]
    ids = np.concatenate([one.input_ids for one in ended])
    predicted = np.concatenate([one.predicted for one in ended])
    owners = np.repeat(np.arange(len(ended)), [len(one) for one in ended])

    width = min(sequence_length, len(ids))
    document_ids = _cut_into_rows(owners.astype(np.int64), width, PADDING)
    next_predicted = _cut_into_rows(predicted, width, False)
    targets = np.zeros(document_ids.shape, dtype=np.bool_)
    targets[:, :-1] = next_predicted[:, 1:]
    lengths = (document_ids != PADDING).sum(axis=1, dtype=np.int32)
    return Rows(_cut_into_rows(ids, width, pad_id), document_ids, targets, lengths)


def _ended(document: TokenizedDocument, eos_id: int) -> TokenizedDocument:
    if len(document) and document.input_ids[-1] == eos_id:
        return document
    ids = np.append(document.input_ids, np.int32(eos_id))
    return TokenizedDocument(ids, np.append(document.predicted, True))


def _cut_into_rows(values: NDArray[Scalar], width: int, fill: int) -> NDArray[Scalar]:
    padding = -len(values) % width
    filled = np.full(padding, fill, dtype=values.dtype)
    return np.concatenate([values, filled]).reshape(-1, width)


def batch_order(
    num_rows: int, *, batch_size: int, epochs: int, seed: int, shuffle: bool
) -> list[NDArray[np.int64]]:
    """The rows of every training step.

    Each epoch uses every row once, in its own permutation; its last batch may be smaller.

    Returns:
        One array of row indices per step.

    Raises:
        UsageError: if a batch has more rows than there are.
    """
    if batch_size > num_rows:
        raise UsageError(
            f"training.batch_size: {batch_size} is more than the number of rows, {num_rows}; "
            "lower it or add data."
        )
    steps: list[NDArray[np.int64]] = []
    for epoch in range(epochs):
        rows = np.arange(num_rows, dtype=np.int64)
        if shuffle:
            rows = np.random.default_rng([seed, epoch]).permutation(rows)
        steps += np.split(rows, range(batch_size, num_rows, batch_size))
    return steps


def step_table(order: list[NDArray[np.int64]], num_rows: int, epochs: int) -> NDArray[np.int32]:
    """(rows, epochs) The step at which each row is used, for a :func:`batch_order`."""
    table = np.empty((num_rows, epochs), dtype=np.int32)
    steps_per_epoch = len(order) // epochs
    for step, rows in enumerate(order):
        table[rows, step // steps_per_epoch] = step
    return table
