"""Figures of documents that are made from the scores of their tokens."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.runs.arrays import rows_per_chunk
from engine.runs.score_store import Floats
from engine.runs.tables import RowTable
from engine.scores.attribution import Attribution

Measure = Literal["sum", "mean", "strongest"]
MEASURES: tuple[Measure, ...] = ("sum", "mean", "strongest")
MEASURE_NAMES: dict[Measure, str] = {
    "sum": "sum of tokens",
    "mean": "mean per token",
    "strongest": "strongest token",
}


def figures(attribution: Attribution, rows: RowTable, query: int, measure: Measure) -> Floats:
    """One figure a document, (document,): its score, the mean or the extreme of its tokens'.

    The mean is over the tokens that have a loss. All tokens are read unless it is the sum.
    """
    scores = attribution.document_scores(query)
    if measure == "sum":
        return scores
    made = np.zeros(len(scores), np.float64)
    counts = np.zeros(len(scores), np.int64)
    block = rows_per_chunk(8 * rows.tokens)
    for start in range(0, rows.rows, block):
        part = slice(start, start + block)
        counted = rows.targets(part)
        owners = rows.document_ids(part)[counted]
        if measure == "strongest":
            _keep_extremes(made, owners, attribution.scores.token_scores(query, part)[counted])
        else:
            counts += np.bincount(owners, minlength=len(scores))
    return scores / np.maximum(counts, 1) if measure == "mean" else made


def _keep_extremes(made: Floats, owners: NDArray[np.int64], values: Floats) -> None:
    """Put the value of largest size of each document into ``made``, its sign kept."""
    order = np.argsort(np.abs(values), kind="stable")
    owners, values = owners[order], values[order]
    stronger = np.abs(values) > np.abs(made[owners])
    # Of several values for one document the last, which is the largest, stays.
    made[owners[stronger]] = values[stronger]
