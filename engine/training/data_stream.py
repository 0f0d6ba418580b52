"""The batches of a training in order, with one data weight a document or token."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.models.causal_lm_loss import IGNORED
from engine.replay.state import Batch
from engine.runs.errors import UsageError

_PADDING = {"input_ids": 0, "labels": IGNORED, "doc_ids": -1, "attention_mask": 0}
_NOT_INPUTS = {"doc_ids"}


class StreamError(UsageError, ValueError):
    """Rows, data weights and documents do not match."""


class RowSource(Protocol):
    """Rows to train on: a list of mappings, a ``datasets.Dataset``, or the like.

    An optional attribute ``lengths``, an array of every row's number of tokens, lets the cost model
    predict steps by the widths of their batches.
    """

    def __len__(self) -> int:
        """The number of rows."""

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        """The columns of one row."""


class DataStream:
    """The batches of a training, and the data weights w that scores are derivatives in.

    A row's columns become keyword arguments of the model. ``input_ids``, ``labels`` and
    ``attention_mask`` have one entry a token and are padded to the longest row of the batch; other
    columns are stacked. ``labels`` default to ``input_ids``.

    The optional column ``doc_ids`` is not passed to the model. It assigns data weights: the index
    of a document's weight, or -1 for no weight. A row has one index for all its tokens or one index
    a token. Indices beyond a row's tokens are ignored, so that all rows may have equally many.

    Example:
        One weight a document, for rows that each hold one document::

            rows = [{"input_ids": ids, "doc_ids": i} for i, ids in enumerate(token_ids)]
            stream = DataStream(rows, batch_size=8, weight_shape=(len(rows),))
    """

    def __init__(
        self,
        dataset: RowSource,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        weight_shape: tuple[int, ...] | None = None,
        order: Sequence[NDArray[np.int64]] | None = None,
    ) -> None:
        """Create a stream; all data weights are 1.

        Args:
            dataset: the rows.
            batch_size: rows a step.
            device: the batches' device.
            weight_shape: ``(documents,)`` for one weight a document, ``(rows, tokens)`` for one a
                token; by default one weight a row.
            order: row indices of every step; by default the rows once in order, where the last
                batch may be smaller.

        Raises:
            ValueError: if ``weight_shape`` has neither one nor two dimensions.

        :meth:`batch` raises :class:`StreamError` where rows, documents and weights do not match.
        """
        self.dataset = dataset
        self.batch_size = batch_size
        self.device = torch.device(device)
        shape = weight_shape or (len(dataset),)
        if len(shape) not in (1, 2):
            raise ValueError(f"weight_shape is (documents,) or (rows, tokens), not {shape}")
        self.weights = torch.ones(shape, dtype=torch.float64)
        self._latest: tuple[Any, dict[str, Tensor]] = (None, {})
        rows = np.arange(len(dataset), dtype=np.int64)
        self.order = order or [
            rows[start : start + batch_size] for start in range(0, len(rows), batch_size)
        ]

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.order)

    def sizes(self) -> NDArray[np.int64]:
        """(step,): tokens of every batch with its padding; rows if the lengths are unknown."""
        lengths = getattr(self.dataset, "lengths", None)
        if lengths is None:
            return np.array([len(rows) for rows in self.order], np.int64)
        return np.array([len(rows) * lengths[rows].max() for rows in self.order], np.int64)

    def batch(self, step: int, dtype: torch.dtype = torch.float32) -> Batch:
        """The batch of a step, its weights in ``dtype``.

        Raises:
            StreamError: if rows, documents and weights do not match.
        """
        rows = self.order[step]
        columns = self._columns(rows)
        weights = self._batch_weights(rows, columns).to(self.device, dtype)
        inputs = {k: v.to(self.device) for k, v in columns.items() if k not in _NOT_INPUTS}
        return Batch(inputs, weights, _count(columns, weights), (step,))

    def new_scores(self, queries: int, dtype: torch.dtype) -> Tensor:
        """Zero scores (query, *weights), to be filled by :meth:`collect`."""
        # A document's score sums many small numbers, a token's score one an epoch.
        precision = torch.float64 if self.weights.ndim == 1 else dtype
        return torch.zeros((queries, *self.weights.shape), dtype=precision)

    def collect(self, into: Tensor, step: int, scores: Tensor) -> None:
        """Add a step's scores (query, *batch weights) to those of their data weights."""
        rows = self.order[step]
        values = scores.to("cpu", into.dtype)
        if self.weights.ndim == 2:
            into[:, :, : values.shape[2]].index_add_(1, torch.from_numpy(rows), values)
            return
        documents = self._documents(rows, self._columns(rows))
        flat = values.flatten(1)
        known = documents.flatten() >= 0
        into.index_add_(1, documents.flatten()[known], flat[:, known])

    def digests(self) -> dict[str, str]:
        """Digests of what a training depends on: rows, their order, and data weights.

        Streams that differ only in how weights of 1 are assigned to documents or tokens have the
        same digests.
        """
        order, rows, weights = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        for of_step in self.order:
            order.update(f"{len(of_step)} ".encode())
            order.update(np.asarray(of_step, np.int64).tobytes())
        used = np.unique(np.concatenate([np.asarray(of_step, np.int64) for of_step in self.order]))
        for index in used:
            columns = self._columns(np.array([index]))
            for name in sorted(columns.keys() - _NOT_INPUTS):
                tensor = columns[name].contiguous()
                rows.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
                rows.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
            values = self._batch_weights(np.array([index]), columns)
            if bool((values != 1).any()):
                weights.update(f"{index} {tuple(values.shape)} ".encode())
                weights.update(values.contiguous().numpy().tobytes())
        digests = {"rows": rows, "order of the rows": order, "data weights": weights}
        return {what: digest.hexdigest()[:16] for what, digest in digests.items()}

    def _columns(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        if self._latest[0] is rows:
            return self._latest[1]
        checked = [_checked_row(self.dataset[int(row)], int(row)) for row in rows]
        columns = {name: _collate(name, [row[name] for row in checked]) for name in checked[0]}
        if "input_ids" in columns and "labels" not in columns:
            columns["labels"] = _collate("labels", [row["input_ids"] for row in checked])
            if "attention_mask" in columns:
                columns["labels"][columns["attention_mask"] == 0] = IGNORED
        # A step is rebuilt, replayed and collected in succession: each needs the same columns.
        self._latest = (rows, columns)
        return columns

    def _batch_weights(self, rows: NDArray[np.int64], columns: dict[str, Tensor]) -> Tensor:
        if self.weights.ndim == 2:
            width = columns["input_ids"].shape[1] if "input_ids" in columns else 0
            if len(self.weights) != len(self.dataset) or self.weights.shape[1] < width:
                raise StreamError(
                    f"data weights of shape {tuple(self.weights.shape)} do not fit "
                    f"{len(self.dataset)} rows of {width} tokens; give weight_shape=(rows, tokens)"
                )
            return self.weights[torch.from_numpy(rows), : width or None]
        documents = self._documents(rows, columns)
        return self.weights[documents.clamp(min=0)] * (documents >= 0)

    def _documents(self, rows: NDArray[np.int64], columns: dict[str, Tensor]) -> Tensor:
        """The index of every row's or token's data weight; -1 for none."""
        named = "doc_ids" in columns
        documents = columns["doc_ids"].long() if named else torch.from_numpy(rows)
        count = len(self.weights)
        if documents.numel() and not -1 <= int(documents.min()) <= int(documents.max()) < count:
            what = f"doc_ids from {documents.min()} to {documents.max()}"
            raise StreamError(
                f"{what if named else f'row {documents.max()}'} cannot choose among {count} data "
                "weights; give weight_shape=(documents,) with one weight for each"
            )
        return documents


def _checked_row(row: Mapping[str, Any], index: int) -> Mapping[str, Any]:
    """The row, its document ids cut to its number of tokens.

    Raises:
        StreamError: if a column has fewer entries than tokens.
    """
    tokens: tuple[int, ...] = np.shape(row["input_ids"]) if "input_ids" in row else ()
    if len(tokens) != 1:
        return row
    for name in sorted(_PADDING.keys() & row.keys()):
        shape = np.shape(row[name])
        longer = name == "doc_ids" and len(shape) == 1 and shape > tokens
        if shape not in ((), tokens) and not longer:
            raise StreamError(
                f"row {index}: {name} of shape {tuple(shape)} do not fit input_ids of shape "
                f"{tuple(tokens)}; give one a token{', or one' if name == 'doc_ids' else ''}"
            )
    if "doc_ids" in row and np.shape(row["doc_ids"]) > tokens:
        return {**row, "doc_ids": row["doc_ids"][: tokens[0]]}
    return row


def _collate(name: str, values: list[Any]) -> Tensor:
    tensors = [torch.as_tensor(np.asarray(value)) for value in values]
    if name not in _PADDING or tensors[0].ndim == 0:
        return torch.stack(tensors)
    tensors = [tensor.long() for tensor in tensors]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=_PADDING[name])


def _count(columns: dict[str, Tensor], weights: Tensor) -> int:
    """D_t, the denominator of the batch loss: its target tokens, or its weights without labels."""
    labels = columns.get("labels")
    if labels is None or labels.ndim != 2 or "input_ids" not in columns:
        return weights.numel()
    return max(1, int(torch.count_nonzero(labels[:, 1:] != IGNORED)))
