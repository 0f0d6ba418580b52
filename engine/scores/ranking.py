"""The documents of one query in order: the strongest few, or all of them for a list to scroll."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.runs.score_store import Floats

Direction = Literal["all", "helpful", "harmful"]
DIRECTIONS: tuple[Direction, ...] = ("all", "helpful", "harmful")
Aggregation = Literal["sum", "mean", "strongest"]
"""How one value for a document is made from the scores of its tokens."""
AGGREGATIONS: tuple[Aggregation, ...] = ("sum", "mean", "strongest")
AGGREGATION_NAMES: dict[Aggregation, str] = {
    "sum": "sum of tokens",
    "mean": "mean per token",
    "strongest": "strongest token",
}


@dataclass(frozen=True)
class Ranked:
    """A training document, its score, and its share of the query's total |score|."""

    document: int
    score: float
    share: float


def strongest(scores: Floats, count: int, harmful: bool = False) -> list[Ranked]:
    """The most helpful documents, or the most harmful ones, strongest first.

    Args:
        scores: scores of one query, (document,).
        count: how many documents at most.
        harmful: list the highest scores instead of the lowest.

    Returns:
        Fewer than ``count`` if fewer documents have a score of that sign; zeros are never listed.
    """
    total = float(np.abs(scores).sum())
    order = np.argsort(scores, kind="stable")
    chosen = order[::-1] if harmful else order
    sign = 1 if harmful else -1
    return [
        Ranked(int(d), float(scores[d]), float(abs(scores[d])) / total)
        for d in chosen[:count]
        if sign * scores[d] > 0
    ]


@dataclass(frozen=True)
class Histogram:
    """``counts[i]`` documents have scores between ``edges[i]`` and ``edges[i + 1]``."""

    counts: NDArray[np.int64]
    edges: Floats


@dataclass(frozen=True)
class Ranking:
    """The documents of a query, the strongest first. Scores of zero come last, and only in "all".

    Attributes:
        values: (document,) the values ranked by: scores, or another aggregation of token scores.
        direction: which documents are listed.
        order: (listed,) the documents in order.
    """

    values: Floats
    direction: Direction
    order: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def total(self) -> float:
        """Sum of |value| over all documents, listed or not."""
        return float(np.abs(self.values).sum(dtype=np.float64))

    @cached_property
    def largest(self) -> float:
        """The largest |value| of all documents."""
        return float(np.abs(self.values).max(initial=0.0))

    @cached_property
    def sign_counts(self) -> tuple[int, int]:
        """Numbers of helpful and of harmful documents."""
        return int((self.values < 0).sum()), int((self.values > 0).sum())

    @cached_property
    def _cumulative(self) -> NDArray[np.float64]:
        return np.cumsum(np.abs(self.values[self.order]), dtype=np.float64)

    @cached_property
    def _sizes(self) -> Floats:
        return np.sort(np.abs(self.values))

    def strength(self, document: int) -> int:
        """Rank of a document among all by |value|; the strongest has rank 1."""
        size = abs(self.values[document])
        return 1 + len(self._sizes) - int(np.searchsorted(self._sizes, size, side="right"))

    def share(self, document: int) -> float:
        """A document's share of the total |value|."""
        return abs(float(self.values[document])) / self.total if self.total > 0 else 0.0

    def cumulative_share(self, count: int) -> float:
        """Share of the total |value| in the first ``count`` documents listed."""
        count = min(count, len(self.order))
        if count == 0 or not self.total > 0:
            return 0.0
        return float(self._cumulative[count - 1]) / self.total

    def index(self, document: int) -> int | None:
        """Index of a document in the order; None if it is not listed."""
        indices = np.nonzero(self.order == document)[0]
        return int(indices[0]) if len(indices) else None

    def restricted_to(self, documents: NDArray[np.int64]) -> "Ranking":
        """The same ranking, listing only some documents."""
        listed = np.zeros(len(self.values), bool)
        listed[documents] = True
        return Ranking(self.values, self.direction, self.order[listed[self.order]])

    def histogram(self, bins: int) -> Histogram:
        """Counts of values in an odd number of equal bins around zero."""
        bins -= 1 - bins % 2
        if bins not in self._histograms:
            self._histograms[bins] = self._count(bins)
        return self._histograms[bins]

    @cached_property
    def _histograms(self) -> dict[int, Histogram]:
        return {}

    def _count(self, bins: int) -> Histogram:
        edge = self.largest or 1.0
        counts, edges = np.histogram(self.values, bins=max(1, bins), range=(-edge, edge))
        return Histogram(counts, edges)


def rank_documents(values: Floats, direction: Direction = "all") -> Ranking:
    """Order the documents of a query by |value|, or those of one sign by value."""
    keys: Any = -np.abs(values) if direction == "all" else values
    if direction == "harmful":
        keys = -values
    order = np.argsort(keys, kind="stable").astype(np.int64)
    if direction != "all":
        order = order[: int((keys < 0).sum())]
    return Ranking(values, direction, order)


def score_correlation(first: Floats, second: Floats) -> float | None:
    """Pearson's correlation of two queries' document scores; None where one has no variance."""
    if len(first) < 2 or not (first.std() > 0 and second.std() > 0):
        return None
    return float(np.corrcoef(first, second)[0, 1])
