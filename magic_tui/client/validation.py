"""Leave-subset-out retrainings of an attribution: what was predicted, and what came out.

``validation.csv`` holds one retrained subset and query a line, with at least the columns ``query``,
``predicted`` and ``actual``, and ``subset`` to tell the retrainings apart. It may still grow.
"""

import csv
import functools
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.contract.errors import RunError

Floats = NDArray[np.float64]
_RESAMPLES = 300
_FAR = 5.0
"""An outlier is this much farther from y = x than the median point."""
VALIDATION_FILE = "validation.csv"


@dataclass(frozen=True)
class Points:
    """One query's retrained subsets: what was predicted, and what came out, (subset,)."""

    query: int
    subsets: tuple[str, ...]
    predicted: Floats
    actual: Floats

    @property
    def lds(self) -> float:
        """Spearman's rank correlation; NaN for fewer than three subsets."""
        return spearman(self.predicted, self.actual)

    @property
    def pearson(self) -> float:
        """Linear correlation; NaN where it is not defined."""
        return _correlation(self.predicted, self.actual)

    @property
    def error(self) -> float:
        """Mean absolute error, in the measurement's own units."""
        return float(np.abs(self.predicted - self.actual).mean())

    def outliers(self) -> NDArray[np.bool_]:
        """(subset,) Whether a point is far from y = x, compared with most of them."""
        off = np.abs(self.predicted - self.actual)
        return np.asarray(off > _FAR * max(float(np.median(off)), 1e-300), bool)


@dataclass(frozen=True)
class Validation:
    """All retrained subsets of an attribution."""

    points: tuple[Points, ...]
    skipped: int
    """Lines whose numbers are not finite."""

    @property
    def subsets(self) -> int:
        """How many retrainings there are."""
        return len({subset for points in self.points for subset in points.subsets})

    @property
    def lds(self) -> float:
        """Mean LDS over queries; NaN if none has one."""
        found = [value for points in self.points if not np.isnan(value := points.lds)]
        return float(np.mean(found)) if found else float("nan")

    def of_query(self, query: int) -> Points | None:
        """The points of one query, if it was validated."""
        return next((points for points in self.points if points.query == query), None)

    @functools.cached_property
    def interval(self) -> tuple[float, float]:
        """Where the mean LDS lies with 95 %, by drawing subsets anew (the same ones each time)."""
        names = sorted({subset for points in self.points for subset in points.subsets})
        random, means = np.random.default_rng(0), []
        for _ in range(_RESAMPLES):
            drawn = random.integers(len(names), size=len(names))
            counts = dict(
                zip(names, np.bincount(drawn, minlength=len(names)).tolist(), strict=True)
            )
            values = [_resampled(points, counts) for points in self.points]
            known = [value for value in values if not np.isnan(value)]
            if known:
                means.append(np.mean(known))
        if not means:
            return float("nan"), float("nan")
        low, high = np.quantile(means, (0.025, 0.975))
        return float(low), float(high)


def read_validation(attribution: Path) -> Validation | None:
    """The retrained subsets of an attribution; None if there are none yet.

    Raises:
        RunError: if the file is damaged.
    """
    path = attribution / VALIDATION_FILE
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    # It is looked at again and again, and mostly nothing has changed.
    return _read(path, facts.st_mtime_ns, facts.st_size)


@functools.lru_cache(maxsize=8)
def _read(path: Path, changed: int, size: int) -> Validation | None:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read ({type(error).__name__})") from None
    # Its writer may be in the middle of a line.
    lines = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    found: dict[int, list[tuple[str, float, float]]] = {}
    skipped = 0
    try:
        for number, line in enumerate(lines):
            predicted, actual = float(line["predicted"]), float(line["actual"])
            if not np.isfinite([predicted, actual]).all():
                skipped += 1
                continue
            subset = line.get("subset") or str(number)
            found.setdefault(int(line["query"]), []).append((subset, predicted, actual))
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise RunError(
            f"{path}, line {lines.line_num}, is damaged ({type(error).__name__}); "
            "restore it from a backup, or validate again"
        ) from None
    if not found:
        return None
    return Validation(tuple(_points(query, found[query]) for query in sorted(found)), skipped)


def spearman(first: Floats, second: Floats) -> float:
    """Rank correlation, equal values sharing their mean rank; NaN for fewer than three."""
    return _correlation(_ranks(first), _ranks(second))


def _points(query: int, rows: list[tuple[str, float, float]]) -> Points:
    subsets, predicted, actual = zip(*rows, strict=True)
    return Points(query, subsets, np.array(predicted), np.array(actual))


def _ranks(values: Floats) -> Floats:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place], np.float64)


def _correlation(first: Floats, second: Floats) -> float:
    if len(first) < 3 or first.std() == 0 or second.std() == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def _resampled(points: Points, counts: dict[str, int]) -> float:
    repeats = [counts[subset] for subset in points.subsets]
    return spearman(np.repeat(points.predicted, repeats), np.repeat(points.actual, repeats))
