"""Measurements φ: the scalar losses that are asked about."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from engine.replay.state import Batch
from engine.runs.config import Reduction
from engine.training.data_stream import DataStream

Measurement = Sequence[Batch]
"""φ as a sum of batch losses; the batches' weights and denominators carry its coefficients."""


def measurements_of(
    queries: DataStream, reduction: Reduction, dtype: torch.dtype
) -> list[Measurement]:
    """A stream's rows as measurements: φ of a row is the mean loss of its targets."""
    rows = len(queries.dataset)
    # A query has one weight, its coefficient, whatever documents its row is made of.
    plain = [
        {name: column for name, column in queries.dataset[row].items() if name != "doc_ids"}
        for row in range(rows)
    ]
    single = DataStream(plain, 1, device=queries.device)
    batches = [single.batch(row, dtype) for row in range(rows)]
    if reduction == "none":
        return [[batch] for batch in batches]
    share = 1.0 / rows if reduction == "mean" else 1.0
    return [[scaled(batch, share) for batch in batches]]


def scaled(batch: Batch, factor: float) -> Batch:
    """The batch with its loss multiplied by ``factor``."""
    return replace(batch, weights=batch.weights * factor)
