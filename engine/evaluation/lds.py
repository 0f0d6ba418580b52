"""The linear datamodeling score (LDS): how well scores predict the effect of leaving documents out.

For a query φ and subsets S_1 … S_m of the training documents, a model is retrained without each
subset. The LDS of the query is the Spearman rank correlation, over the subsets, of

    predicted_j = φ(1) − Σ_{i ∈ S_j} score_i     and     actual_j = φ of the retrained model.

It is reported as the mean over queries, with a bootstrap interval over the subsets. The LDS was
introduced with TRAK (arXiv 2303.14186); MAGIC is evaluated with it in arXiv 2504.16430.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Pairs = tuple[Floats, Floats, NDArray[np.int64]]
"""One query's predicted and actual values (subset,), and the number of each subset, (subset,)."""

RESAMPLES = 300
"""Bootstrap resamples of an interval."""
_NAN = float("nan")


@dataclass(frozen=True)
class Lds:
    """The LDS of each query, their mean, and how far the mean is known."""

    per_query: Floats
    """Spearman's rank correlation, (query,). NaN where it is undefined: fewer than three subsets,
    or all predicted or all actual values equal."""
    pearson: Floats
    """Pearson's correlation, (query,)."""
    mean: float
    """Mean of ``per_query`` over the queries that have one; NaN if none has."""
    interval: tuple[float, float]
    """Bounds of the 95 % bootstrap interval of ``mean``."""


def lds(
    predicted: ArrayLike, actual: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> Lds:
    """Compute the LDS of predictions over retrained subsets.

    Args:
        predicted: φ(1) − Σ score over the subset's documents, (query, subset), or (subset,) for one
            query. Any increasing function of it gives the same rank correlation.
        actual: φ of the model retrained without the subset, same shape. Pairs with a value that is
            not finite are left out.
        resamples: bootstrap resamples of the subsets, drawn with replacement; all queries share
            them.
        seed: seed of the resampling.

    Raises:
        ValueError: if the shapes differ, or are not (query, subset) or (subset,).

    Example:
        >>> result = lds([[0.1, 0.2, 0.4, 0.3]], [[1.0, 2.0, 3.5, 4.0]])
        >>> round(result.mean, 2)
        0.8
    """
    expected, measured = np.asarray(predicted, np.float64), np.asarray(actual, np.float64)
    if expected.shape != measured.shape or expected.ndim not in (1, 2):
        raise ValueError(
            "predicted and actual must both have shape (query, subset) or (subset,); got "
            f"{expected.shape} and {measured.shape}"
        )
    expected, measured = np.atleast_2d(expected), np.atleast_2d(measured)
    finite = np.isfinite(expected) & np.isfinite(measured)
    pairs = [
        (p[known], a[known], np.flatnonzero(known))
        for p, a, known in zip(expected, measured, finite, strict=True)
    ]
    per_query = np.array([spearman(p, a) for p, a, _ in pairs])
    return Lds(
        per_query,
        np.array([pearson(p, a) for p, a, _ in pairs]),
        mean_defined(per_query.tolist()),
        bootstrap_interval(pairs, expected.shape[1], resamples, seed),
    )


def spearman(first: Floats, second: Floats) -> float:
    """Pearson's correlation of the ranks, ties sharing their mean rank; NaN where undefined."""
    return pearson(_ranks(first), _ranks(second))


def pearson(first: Floats, second: Floats) -> float:
    """Linear correlation; NaN for fewer than three values or where either has no variance."""
    if len(first) < 3 or first.std() == 0 or second.std() == 0:
        return _NAN
    return float(np.corrcoef(first, second)[0, 1])


def mean_pairwise_spearman(several: Floats) -> float:
    """Mean rank correlation over all pairs of the first axis of ``several``, (item, value)."""
    ranked = [_ranks(values) for values in several]
    return mean_defined(pearson(*pair) for pair in itertools.combinations(ranked, 2))


def mean_defined(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN if all are."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else _NAN


def bootstrap_interval(
    queries: Sequence[Pairs], subsets: int, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the mean rank correlation over queries.

    Each resample draws ``subsets`` subset numbers with replacement and repeats every query's pairs
    accordingly. Resamples in which no query has a correlation are dropped.

    Args:
        queries: predicted and actual values with the numbers of their subsets, for each query.
        subsets: number of subsets; numbers run from 0.
        resamples: number of resamples.
        seed: seed of the draws.

    Returns:
        The bounds; NaN twice if no resample has a correlation.
    """
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(resamples if subsets else 0):
        counts = np.bincount(generator.integers(subsets, size=subsets), minlength=subsets)
        mean = mean_defined(_resampled(pairs, counts) for pairs in queries)
        if not np.isnan(mean):
            means.append(mean)
    if not means:
        return _NAN, _NAN
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _resampled(pairs: Pairs, counts: NDArray[np.int64]) -> float:
    predicted, actual, numbers = pairs
    repeats = counts[numbers]
    return spearman(np.repeat(predicted, repeats), np.repeat(actual, repeats))


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64)
