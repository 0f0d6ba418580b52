"""All documents of one query in an order: what a list of any length scrolls over."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.runs.score_store import Floats

Direction = Literal["both", "helpful", "harmful"]
DIRECTIONS: tuple[Direction, ...] = ("both", "helpful", "harmful")


@dataclass(frozen=True)
class Histogram:
    """How many documents have scores between ``edges[i]`` and ``edges[i + 1]``."""

    counts: NDArray[np.int64]
    edges: Floats


@dataclass(frozen=True)
class Ranking:
    """The documents of a query, the strongest first; zeros come last and only in "both".

    Attributes:
        values: (document,) what is ranked by: scores, or a figure made from them.
        direction: which signs are listed.
        order: (listed,) documents in their order.
    """

    values: Floats
    direction: Direction
    order: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def total(self) -> float:
        """Sum of all |values|, those that are not listed included."""
        return float(np.abs(self.values).sum(dtype=np.float64))

    @cached_property
    def largest(self) -> float:
        """The largest |value| of all."""
        return float(np.abs(self.values).max(initial=0.0))

    @cached_property
    def signs(self) -> tuple[int, int]:
        """Numbers of helpful and of harmful documents."""
        return int((self.values < 0).sum()), int((self.values > 0).sum())

    @cached_property
    def _cumulative(self) -> NDArray[np.float64]:
        return np.cumsum(np.abs(self.values[self.order]), dtype=np.float64)

    @cached_property
    def _sizes(self) -> Floats:
        return np.sort(np.abs(self.values))

    def strength(self, document: int) -> int:
        """Place of a document among all by |value|, the strongest being 1."""
        size = abs(self.values[document])
        return 1 + len(self._sizes) - int(np.searchsorted(self._sizes, size, side="right"))

    def share(self, document: int) -> float:
        """A document's share of the total |value|."""
        return abs(float(self.values[document])) / self.total if self.total > 0 else 0.0

    def carried(self, count: int) -> float:
        """Share of the total |value| that the first ``count`` documents listed carry."""
        count = min(count, len(self.order))
        if count == 0 or not self.total > 0:
            return 0.0
        return float(self._cumulative[count - 1]) / self.total

    def place(self, document: int) -> int | None:
        """Index of a document in the order; None if it is not listed."""
        found = np.nonzero(self.order == document)[0]
        return int(found[0]) if len(found) else None

    def only(self, documents: NDArray[np.int64]) -> "Ranking":
        """The same, listing only some documents."""
        kept = np.zeros(len(self.values), bool)
        kept[documents] = True
        return Ranking(self.values, self.direction, self.order[kept[self.order]])

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


def rank_documents(values: Floats, direction: Direction = "both") -> Ranking:
    """Order the documents of a query: by |value|, or only those of one sign."""
    keys: Any = -np.abs(values) if direction == "both" else values
    if direction == "harmful":
        keys = -values
    order = np.argsort(keys, kind="stable").astype(np.int64)
    if direction != "both":
        order = order[: int((keys < 0).sum())]
    return Ranking(values, direction, order)


def agreement(first: Floats, second: Floats) -> float | None:
    """Correlation of two queries' document scores; None where one of them does not vary."""
    if len(first) < 2 or not (first.std() > 0 and second.std() > 0):
        return None
    return float(np.corrcoef(first, second)[0, 1])
