"""Reading the retrainings of an attribution: predicted and actual φ of every query and subset.

``attributions/ID/validation.csv`` has one line for each query and retrained subset, with at least
the columns ``query``, ``predicted`` and ``actual``; ``subset`` names the retraining and ``kind``
the way its documents were chosen. An LDS is computed over subsets of one kind. The file grows
while a validation runs.
"""

import csv
import functools
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.evaluation.lds import (
    RESAMPLES,
    Floats,
    bootstrap_interval,
    mean_defined,
    pearson,
    spearman,
)
from engine.evaluation.verdict import FEWEST_SUBSETS
from engine.runs.checksummed import check_lines, verify
from engine.runs.errors import RunError
from engine.runs.journal import read_journal
from engine.runs.run_folder import RunFolder
from engine.runs.safe_open import read_file
from engine.scores.attribution import Attribution

VALIDATION_FILE = "validation.csv"
BASELINES_FOLDER = "baselines"
_OUTLIER_FACTOR = 5.0
"""An outlier is this many times as far from y = x as the median point."""


@dataclass(frozen=True)
class Points:
    """Predicted and actual φ of one query's retrained subsets; arrays are (subset,)."""

    query: int
    subsets: tuple[str, ...]
    kinds: tuple[str, ...]
    """Kind of each subset: ``drop SHARE``, ``leave-one-out``, ``drop-top K`` or empty."""
    predicted: Floats
    actual: Floats

    @property
    def lds(self) -> float:
        """Spearman's rank correlation over subsets of one kind; NaN where undefined."""
        return spearman(self.predicted, self.actual)

    @property
    def pearson(self) -> float:
        """Linear correlation over subsets of one kind; NaN where undefined."""
        return pearson(self.predicted, self.actual)

    @property
    def error(self) -> float:
        """Mean absolute error, in units of φ."""
        return float(np.abs(self.predicted - self.actual).mean())

    @property
    def spread(self) -> float:
        """Standard deviation of the actual values, the scale of ``error``."""
        return float(self.actual.std())

    @property
    def is_constant(self) -> bool:
        """Whether every retraining gave the same φ."""
        return len(self.subsets) >= 3 and bool(np.ptp(self.actual) == 0)

    @property
    def by_kind(self) -> "list[Points]":
        """The points of each kind."""
        return [self.of_kind(kind) for kind in dict.fromkeys(self.kinds)]

    def of_kind(self, kind: str) -> "Points":
        """The points of one kind."""
        return self.at([i for i, name in enumerate(self.kinds) if name == kind])

    def at(self, indices: list[int]) -> "Points":
        """The points at some indices."""
        subsets = tuple(self.subsets[i] for i in indices)
        kinds = tuple(self.kinds[i] for i in indices)
        return Points(self.query, subsets, kinds, self.predicted[indices], self.actual[indices])

    def outliers(self) -> NDArray[np.bool_]:
        """(subset,) Whether a point is far from y = x, compared with the median point."""
        off = np.abs(self.predicted - self.actual)
        return np.asarray(off > _OUTLIER_FACTOR * max(float(np.median(off)), 1e-300), bool)


@dataclass(frozen=True)
class Validation:
    """All retrained subsets of an attribution."""

    points: tuple[Points, ...]
    """One item for each query."""
    skipped: int
    """Lines with a value that is not finite."""

    @property
    def subsets(self) -> int:
        """Number of retrainings."""
        return len({subset for points in self.points for subset in points.subsets})

    @property
    def kinds(self) -> list[str]:
        """The kinds of subsets in the order of the file."""
        return list(dict.fromkeys(kind for points in self.points for kind in points.kinds))

    @functools.cached_property
    def by_kind(self) -> "dict[str, Validation]":
        """The subsets of each kind."""
        return {
            kind: Validation(tuple(points.of_kind(kind) for points in self.points), 0)
            for kind in self.kinds
        }

    @property
    def ranked(self) -> "dict[str, Validation]":
        """The kinds that have an LDS; see :func:`ranked_kinds`."""
        return {kind: self.by_kind[kind] for kind in ranked_kinds(self.kinds)}

    @property
    def deciding(self) -> "tuple[str, Validation] | None":
        """The kind that the verdict rests on, and its subsets; None if no kind has an LDS.

        It is the kind of the lowest LDS among those with ``FEWEST_SUBSETS`` or more, so that the
        verdict holds for every share. If no kind has enough, it is the kind with the most subsets.
        """
        defined = [item for item in self.ranked.items() if not np.isnan(item[1].lds)]
        enough = [item for item in defined if item[1].subsets >= FEWEST_SUBSETS]
        if enough:
            return min(enough, key=lambda item: item[1].lds)
        return max(defined, key=lambda item: item[1].subsets, default=None)

    @property
    def lds(self) -> float:
        """Mean LDS over queries, for subsets of one kind; NaN if no query has one."""
        self._check_one_kind()
        return mean_defined([points.lds for points in self.points])

    @functools.cached_property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean LDS, for subsets of one kind."""
        self._check_one_kind()
        names = sorted({name for points in self.points for name in points.subsets})
        numbers = {name: number for number, name in enumerate(names)}
        pairs = [
            (p.predicted, p.actual, np.array([numbers[name] for name in p.subsets], np.int64))
            for p in self.points
        ]
        return bootstrap_interval(pairs, len(names), RESAMPLES)

    def of_query(self, query: int) -> Points | None:
        """The points of one query; None if it was not validated."""
        return next((points for points in self.points if points.query == query), None)

    def _check_one_kind(self) -> None:
        assert len(self.kinds) <= 1, "an LDS is computed over subsets of one kind"


def ranked_kinds(kinds: Iterable[str]) -> list[str]:
    """The kinds that have an LDS: random subsets of one size.

    Single documents and the most helpful documents count only if there are no random subsets.
    """
    distinct = list(dict.fromkeys(kinds))
    random = [kind for kind in distinct if kind == "" or kind.startswith("drop ")]
    return random or distinct


def read_validation(attribution: Path) -> Validation | None:
    """The retrained subsets of the attribution in a folder; None if there are none yet.

    Raises:
        RunError: if the file is damaged.
    """
    path = attribution / VALIDATION_FILE
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    # Screens read it every few seconds; it is parsed again only when it has changed.
    return _read(path, status.st_mtime_ns, status.st_size)


def read_left_out(run: RunFolder) -> dict[str, list[int]]:
    """The documents left out of each retraining, by the name of the subset.

    Raises:
        RunError: if the cache of retrainings is damaged.
    """
    return {str(r["subset"]): list(r["documents"]) for r in read_journal(run.retrainings_file)}


def read_baselines(attribution: Attribution) -> dict[str, Validation]:
    """By baseline method, its predictions for the same subsets and the same actual values.

    The scores of a baseline have an arbitrary scale: correlations are meaningful, errors are not.

    Raises:
        RunError: if a file is damaged.
    """
    files = sorted((attribution.path / BASELINES_FOLDER).glob("*.npy"))
    validation = read_validation(attribution.path) if files else None
    if validation is None:
        return {}
    left_out = read_left_out(attribution.run)
    methods = {}
    for file in files:
        verify(file)
        try:
            scores = np.load(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise RunError(
                f"{file} cannot be read ({type(error).__name__}); remove it and validate again"
            ) from None
        points = tuple(_predicted_by(scores, each, left_out) for each in validation.points)
        methods[file.stem] = Validation(points, validation.skipped)
    return methods


def _predicted_by(scores: Floats, points: Points, left_out: dict[str, list[int]]) -> Points:
    """The points with predictions −Σ score over the left-out documents, from other scores."""
    sums = [-scores[points.query, left_out.get(name, [])].sum() for name in points.subsets]
    return Points(points.query, points.subsets, points.kinds, np.array(sums), points.actual)


@functools.lru_cache(maxsize=8)
def _read(path: Path, changed: int, size: int) -> Validation | None:
    try:
        text = read_file(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read ({type(error).__name__})") from None
    # A running validation may have written part of the last line.
    text = text[: text.rfind("\n") + 1]
    check_lines(text, path)
    lines = csv.DictReader(io.StringIO(text))
    rows: dict[int, list[tuple[str, str, float, float]]] = {}
    skipped = 0
    try:
        for number, line in enumerate(lines):
            predicted, actual = float(line["predicted"]), float(line["actual"])
            if not np.isfinite([predicted, actual]).all():
                skipped += 1
                continue
            subset = line.get("subset") or str(number)
            row = (subset, line.get("kind") or "", predicted, actual)
            rows.setdefault(int(line["query"]), []).append(row)
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise RunError(
            f"{path}, line {lines.line_num}, is damaged ({type(error).__name__}); "
            "restore it from a backup, or validate again"
        ) from None
    if not rows:
        return None
    return Validation(tuple(_points(query, rows[query]) for query in sorted(rows)), skipped)


def _points(query: int, rows: list[tuple[str, str, float, float]]) -> Points:
    subsets, kinds, predicted, actual = zip(*rows, strict=True)
    return Points(query, subsets, kinds, np.array(predicted), np.array(actual))
