"""How well a mean over seeds predicts, judged by the subsets that all of its runs left out.

A run's predictions are φ(1) − Σ score, so the mean of the runs' predictions is the prediction of
the mean scores, and it stands against the mean of what came out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.evaluation.predictions import (
    Points,
    Validation,
    mean,
    read_left_out,
    read_validation,
)
from engine.evaluation.seeds import Seeded


@dataclass(frozen=True)
class AverageLds:
    """Three predictions of the same retrained subsets."""

    averaged: Validation
    """Mean scores against mean φ."""
    own: tuple[Validation, ...]
    """Each run's scores against its own φ."""
    single: tuple[Validation, ...]
    """Each run's scores against mean φ."""

    @property
    def kinds(self) -> list[str]:
        """The kinds of subsets that have an LDS."""
        return list(self.averaged.ranked)

    def figures(self, kind: str, query: int | None = None) -> dict[str, float]:
        """The LDS of each over the subsets of a kind, that of single runs on average over them.

        Args:
            kind: one of ``kinds``.
            query: one query; left out, the mean over queries.
        """
        each = {"averaged": (self.averaged,), "own": self.own, "single": self.single}
        return {
            name: mean([_lds(one.by_kind[kind], query) for one in found])
            for name, found in each.items()
        }


def read_average_lds(seeds: Sequence[Seeded]) -> AverageLds | None:
    """What is known of the subsets that all runs were validated with; None if there are too few.

    A subset is the same if its name is and the documents are: those that help most are others in
    every run.

    Raises:
        RunError: if a file is damaged.
    """
    validations = [read_validation(each.opened.path) for each in seeds]
    found = [validation for validation in validations if validation is not None]
    if len(found) < len(seeds):
        return None
    left_out = [read_left_out(each.opened.run) for each in seeds]
    same = {n for n, d in left_out[0].items() if all(o.get(n) == d for o in left_out[1:])}
    of_queries = (_of_runs(found, points.query, same) for points in found[0].points)
    # (query, run), and of each query the mean over its runs.
    shared = [points for points in of_queries if points]
    means = [_mean(points) for points in shared]
    runs = range(len(seeds) if shared else 0)
    judged = AverageLds(
        _validation(means),
        tuple(_validation([of_query[run] for of_query in shared]) for run in runs),
        tuple(_validation(map(_against, (q[run] for q in shared), means)) for run in runs),
    )
    return None if judged.averaged.deciding is None else judged


def why_no_lds(seeds: Sequence[Seeded]) -> str:
    """In words, why :func:`read_average_lds` found none."""
    lacking = [each.run for each in seeds if read_validation(each.opened.path) is None]
    if lacking:
        return f"no LDS of the mean: not validated: {', '.join(lacking)}; see: magic validate"
    return (
        "no LDS of the mean: the runs share fewer than three validated subsets, or φ came out the "
        "same in all of them; validate all with the same --drop, --count and --seed"
    )


def _of_runs(found: Sequence[Validation], query: int, same: set[str]) -> list[Points]:
    """One query's points of every run at the subsets that all of them have, in the same order."""
    points = [p for p in (validation.of_query(query) for validation in found) if p is not None]
    if len(points) < len(found):
        return []
    common = same.intersection(*(each.subsets for each in points))
    names = [name for name in points[0].subsets if name in common]
    return [_at(each, names) for each in points]


def _at(points: Points, names: list[str]) -> Points:
    places = {name: place for place, name in enumerate(points.subsets)}
    chosen = [places[name] for name in names]
    kinds = tuple(points.kinds[place] for place in chosen)
    values = points.predicted[chosen], points.actual[chosen]
    return Points(points.query, tuple(names), kinds, *values)


def _mean(points: Sequence[Points]) -> Points:
    predicted = np.mean([each.predicted for each in points], axis=0)
    actual = np.mean([each.actual for each in points], axis=0)
    return Points(points[0].query, points[0].subsets, points[0].kinds, predicted, actual)


def _against(own: Points, means: Points) -> Points:
    return Points(own.query, own.subsets, own.kinds, own.predicted, means.actual)


def _validation(points: Iterable[Points]) -> Validation:
    return Validation(tuple(points), skipped=0)


def _lds(found: Validation, query: int | None) -> float:
    if query is None:
        return found.lds
    points = found.of_query(query)
    return float("nan") if points is None else points.lds
