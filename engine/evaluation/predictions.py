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

from engine.evaluation.verdict import FEWEST
from engine.runs.checksummed import check_lines
from engine.runs.errors import RunError
from engine.runs.journal import read_journal
from engine.runs.run_folder import RunFolder
from engine.runs.safe_open import read_file

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
        """Spearman's rank correlation of subsets of one kind; NaN for fewer than three."""
        return spearman(self.predicted, self.actual)

    @property
    def pearson(self) -> float:
        """Linear correlation of subsets of one kind; NaN where it is not defined."""
        return _correlation(self.predicted, self.actual)

    @property
    def error(self) -> float:
        """Mean absolute error, in the measurement's own units."""
        return float(np.abs(self.predicted - self.actual).mean())

    @property
    def spread(self) -> float:
        """Standard deviation of what came out: what the error is to be read against."""
        return float(self.actual.std())

    @property
    def is_unmoved(self) -> bool:
        """Whether nothing that was left out changed what came out."""
        return len(self.subsets) >= 3 and bool(np.ptp(self.actual) == 0)

    @property
    def by_kind(self) -> "list[Points]":
        """The subsets of each kind apart."""
        return [self.of_kind(kind) for kind in dict.fromkeys(self.kinds)]

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
    def kinds(self) -> list[str]:
        """The kinds of subsets, those met first first."""
        return list(dict.fromkeys(kind for points in self.points for kind in points.kinds))

    @functools.cached_property
    def by_kind(self) -> "dict[str, Validation]":
        """The subsets of each kind alone: an LDS is that of one kind."""
        return {
            kind: Validation(tuple(points.of_kind(kind) for points in self.points), 0)
            for kind in self.kinds
        }

    @property
    def ranked(self) -> "dict[str, Validation]":
        """The kinds whose LDS counts."""
        return {kind: self.by_kind[kind] for kind in ranked_kinds(self.kinds)}

    @property
    def deciding(self) -> "tuple[str, Validation] | None":
        """The kind that a verdict rests on: the lowest LDS of those with enough subsets.

        A verdict is to hold for every share that was measured. Where no kind has enough subsets
        it is the one that has most; None if no kind has an LDS.
        """
        known = [item for item in self.ranked.items() if not np.isnan(item[1].lds)]
        enough = [item for item in known if item[1].subsets >= FEWEST]
        if enough:
            return min(enough, key=lambda item: item[1].lds)
        return max(known, key=lambda item: item[1].subsets, default=None)

    @property
    def lds(self) -> float:
        """Mean LDS over queries, of subsets of one kind; NaN if no query has one."""
        assert len(self.kinds) <= 1, "an LDS is that of one kind of subsets"
        return mean([points.lds for points in self.points])

    def of_query(self, query: int) -> Points | None:
        """The points of one query, if it was validated."""
        return next((points for points in self.points if points.query == query), None)

    @functools.cached_property
    def interval(self) -> tuple[float, float]:
        """Where the mean LDS lies with 95 %, by drawing subsets anew (the same ones each time)."""
        assert len(self.kinds) <= 1, "an LDS is that of one kind of subsets"
        names = sorted({name for points in self.points for name in points.subsets})
        random, means = np.random.default_rng(0), []
        for _ in range(_RESAMPLES if names else 0):
            drawn = random.integers(len(names), size=len(names))
            counts = dict(
                zip(names, np.bincount(drawn, minlength=len(names)).tolist(), strict=True)
            )
            found = mean([_resampled(points, counts) for points in self.points])
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
        text = read_file(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read ({type(error).__name__})") from None
    # Its writer may be in the middle of a line.
    text = text[: text.rfind("\n") + 1]
    check_lines(text, path)
    lines = csv.DictReader(io.StringIO(text))
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
