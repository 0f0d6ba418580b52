"""Leave-subset-out retrainings of an attribution: what was predicted, and what came out.

``validation.csv`` holds one retrained subset and query a line, with at least the columns ``query``,
``predicted`` and ``actual``, ``subset`` to tell the retrainings apart, and ``kind`` to tell which
of them may be ranked together. It may still grow.
"""

import csv
import functools
import io
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.contract.errors import RunError
from engine.records.journal import read_journal
from engine.records.run_folder import RunFolder

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
    kinds: tuple[str, ...]
    """What a subset is one of: ``drop SHARE``, ``leave-one-out``, ``drop-top K``, or nothing."""
    predicted: Floats
    actual: Floats

    @property
    def lds(self) -> float:
        """Spearman's rank correlation within a kind, on average of those that are ranked.

        Not a number if none has three subsets.
        """
        return mean([spearman(one.predicted, one.actual) for one in self.ranked])

    @property
    def pearson(self) -> float:
        """Linear correlation, averaged alike; NaN where it is not defined."""
        return mean([_correlation(one.predicted, one.actual) for one in self.ranked])

    @property
    def error(self) -> float:
        """Mean absolute error, in the measurement's own units."""
        return float(np.abs(self.predicted - self.actual).mean())

    @property
    def ranked(self) -> "list[Points]":
        """The subsets of each kind that has an LDS."""
        return [self.of_kind(kind) for kind in ranked_kinds(self.kinds)]

    @property
    def is_unmoved(self) -> bool:
        """Whether nothing that was left out of a kind of subsets changed what came out."""
        return any(len(one.subsets) >= 3 and np.ptp(one.actual) == 0 for one in self.ranked)

    def of_kind(self, kind: str) -> "Points":
        """The subsets of one kind."""
        places = [place for place, name in enumerate(self.kinds) if name == kind]
        subsets = tuple(self.subsets[place] for place in places)
        kinds = (kind,) * len(places)
        return Points(self.query, subsets, kinds, self.predicted[places], self.actual[places])

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
    def ranked_subsets(self) -> int:
        """How many of them are of a kind that has an LDS."""
        found = {name for points in self.points for one in points.ranked for name in one.subsets}
        return len(found)

    @property
    def kinds(self) -> list[str]:
        """The kinds of subsets, those met first first."""
        return list(dict.fromkeys(kind for points in self.points for kind in points.kinds))

    @property
    def lds(self) -> float:
        """Mean LDS over queries; NaN if none has one."""
        return mean([points.lds for points in self.points])

    def of_query(self, query: int) -> Points | None:
        """The points of one query, if it was validated."""
        return next((points for points in self.points if points.query == query), None)

    def of_kind(self, kind: str) -> "Validation":
        """The subsets of one kind alone, which are then ranked whatever they are."""
        return Validation(tuple(points.of_kind(kind) for points in self.points), 0)

    @functools.cached_property
    def interval(self) -> tuple[float, float]:
        """Where the mean LDS lies with 95 %, by drawing subsets anew (the same ones each time)."""
        ranked = [points.ranked for points in self.points]
        names = sorted({name for query in ranked for one in query for name in one.subsets})
        random, means = np.random.default_rng(0), []
        for _ in range(_RESAMPLES if names else 0):
            drawn = random.integers(len(names), size=len(names))
            counts = dict(
                zip(names, np.bincount(drawn, minlength=len(names)).tolist(), strict=True)
            )
            found = mean([mean([_resampled(one, counts) for one in query]) for query in ranked])
            if not np.isnan(found):
                means.append(found)
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


def read_left_out(run: RunFolder) -> dict[str, list[int]]:
    """By the name of a retrained subset, the documents that were left out.

    Raises:
        RunError: if the bank is damaged.
    """
    return {str(r["subset"]): list(r["documents"]) for r in read_journal(run.bank_file)}


@functools.lru_cache(maxsize=8)
def _read(path: Path, changed: int, size: int) -> Validation | None:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read ({type(error).__name__})") from None
    # Its writer may be in the middle of a line.
    lines = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    found: dict[int, list[tuple[str, str, float, float]]] = {}
    skipped = 0
    try:
        for number, line in enumerate(lines):
            predicted, actual = float(line["predicted"]), float(line["actual"])
            if not np.isfinite([predicted, actual]).all():
                skipped += 1
                continue
            subset = line.get("subset") or str(number)
            row = (subset, line.get("kind") or "", predicted, actual)
            found.setdefault(int(line["query"]), []).append(row)
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


def mean_spearman(several: Floats) -> float:
    """Rank correlation of two of ``several`` (…, value), on average over all pairs of them."""
    ranked = [_ranks(values) for values in several]
    return mean(_correlation(*pair) for pair in itertools.combinations(ranked, 2))


def ranked_kinds(kinds: Iterable[str]) -> list[str]:
    """The kinds that have an LDS.

    Random subsets of one size do; single documents, or the strongest ones, only where there is
    nothing else.
    """
    known = list(dict.fromkeys(kinds))
    random = [kind for kind in known if kind == "" or kind.startswith("drop ")]
    return random or known


def mean(values: Iterable[float]) -> float:
    """Of those that are numbers; NaN if none is."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _points(query: int, rows: list[tuple[str, str, float, float]]) -> Points:
    subsets, kinds, predicted, actual = zip(*rows, strict=True)
    return Points(query, subsets, kinds, np.array(predicted), np.array(actual))


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
