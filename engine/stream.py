"""The order in which a training sees its data, with one weight for every document or token."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.magic.state import Batch
from engine.models.causal_lm_loss import IGNORED

_PADDING = {"input_ids": 0, "labels": IGNORED, "doc_ids": -1, "attention_mask": 0}
_NOT_INPUTS = {"doc_ids"}


class RowSource(Protocol):
    """Rows to train on: a list of mappings, a ``datasets.Dataset``, or anything alike.

    Where it has ``lengths``, the positions of every row, steps are planned by their widths.
    """

    def __len__(self) -> int:
        """How many rows there are."""

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        """The columns of one row."""


class DataStream:
    """Batches by step, and the data weights that scores are derivatives with respect to.

    Columns become keyword arguments of the model: ``input_ids``, ``labels`` and
    ``attention_mask`` are padded to the longest of the batch, the others stacked. ``labels``
    default to ``input_ids``. ``doc_ids`` (one a row or one a token) are not passed on; they say
    which document's weight applies.
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
        """Put rows in order.

        Args:
            dataset: the rows.
            batch_size: rows a step.
            device: where batches go.
            weight_shape: (documents,) for one weight a document, (rows, tokens) for one a
                token; one a row if left out. All weights are 1.
            order: the rows of every step; once through in order if left out. The last, smaller
                batch is kept.
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
        """Positions of every step's batch, padding included; rows where lengths are not known."""
        lengths = getattr(self.dataset, "lengths", None)
        if lengths is None:
            return np.array([len(rows) for rows in self.order], np.int64)
        return np.array([len(rows) * lengths[rows].max() for rows in self.order], np.int64)

    def batch(self, step: int, dtype: torch.dtype = torch.float32) -> Batch:
        """What step ``step`` trains on, its weights in ``dtype``."""
        rows = self.order[step]
        columns = self._columns(rows)
        weights = self._batch_weights(rows, columns).to(self.device, dtype)
        inputs = {k: v.to(self.device) for k, v in columns.items() if k not in _NOT_INPUTS}
        return Batch(inputs, weights, _count(columns, weights), (step,))

    def new_scores(self, queries: int, dtype: torch.dtype) -> Tensor:
        """Zeros to collect the scores of ``queries`` measurements in: (query, *weights)."""
        # A document's score sums many small numbers; a token's only one an epoch.
        precision = torch.float64 if self.weights.ndim == 1 else dtype
        return torch.zeros((queries, *self.weights.shape), dtype=precision)

    def collect(self, into: Tensor, step: int, scores: Tensor) -> None:
        """Add a step's scores, (query, *batch weights), to those of the weights they belong to."""
        rows = self.order[step]
        values = scores.to("cpu", into.dtype)
        if self.weights.ndim == 2:
            into[:, :, : values.shape[2]].index_add_(1, torch.from_numpy(rows), values)
            return
        documents = self._documents(rows, self._columns(rows))
        flat = values.flatten(1)
        known = documents.flatten() >= 0
        into.index_add_(1, documents.flatten()[known], flat[:, known])

    def _columns(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        if self._latest[0] is rows:
            return self._latest[1]
        taken = [self.dataset[int(row)] for row in rows]
        columns = {name: _collate(name, [row[name] for row in taken]) for name in taken[0]}
        if "input_ids" in columns and "labels" not in columns:
            columns["labels"] = _collate("labels", [row["input_ids"] for row in taken])
            if "attention_mask" in columns:
                columns["labels"][columns["attention_mask"] == 0] = IGNORED
        # A step is taken, rebuilt and collected in turn: each needs the same columns.
        self._latest = (rows, columns)
        return columns

    def _batch_weights(self, rows: NDArray[np.int64], columns: dict[str, Tensor]) -> Tensor:
        if self.weights.ndim == 2:
            width = columns["input_ids"].shape[1] if "input_ids" in columns else None
            return self.weights[torch.from_numpy(rows), :width]
        documents = self._documents(rows, columns)
        return self.weights[documents.clamp(min=0)] * (documents >= 0)

    def _documents(self, rows: NDArray[np.int64], columns: dict[str, Tensor]) -> Tensor:
        """The weight's index for every row or token; -1 for none."""
        return columns["doc_ids"] if "doc_ids" in columns else torch.from_numpy(rows)


def _collate(name: str, values: list[Any]) -> Tensor:
    tensors = [torch.as_tensor(np.asarray(value)) for value in values]
    if name not in _PADDING or tensors[0].ndim == 0:
        return torch.stack(tensors)
    tensors = [tensor.long() for tensor in tensors]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=_PADDING[name])


def _count(columns: dict[str, Tensor], weights: Tensor) -> int:
    """D_t: target tokens where there are labels a token, otherwise losses one a weight."""
    labels = columns.get("labels")
    if labels is None or labels.ndim != 2 or "input_ids" not in columns:
        return weights.numel()
    return max(1, int(torch.count_nonzero(labels[:, 1:] != IGNORED)))
