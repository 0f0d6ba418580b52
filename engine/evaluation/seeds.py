"""Mean scores over runs that differ only in their seed.

MAGIC attributes one training. The effect of a document on the expected φ over seeds is the mean of
the runs' scores, because the derivative of an expectation is the expectation of the derivative
(arXiv 2504.16430, remark 1). The seed draws the order of the rows, the initial weights of what is
not pretrained and the masks of forced dropout; documents, rows and queries do not depend on it.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from engine.evaluation.lds import Floats, mean_defined, mean_pairwise_spearman
from engine.evaluation.validation import Points, Validation, read_left_out, read_validation
from engine.runs.errors import UsageError
from engine.runs.run_folder import RunFolder
from engine.runs.tables import RowTable, read_table
from engine.scores.attribution import Attribution, Query, QueryDocument, open_attribution
from engine.scores.ranking import strongest
from engine.scores.texts import document_texts
from engine.scores.top import Top, ranked_facts, snippet

_START = "start another one with: magic run CONFIG --seed N"
_FREE = {"name", "seed", "trajectory", "devices", "queries", "attribution"}
"""Config sections that may differ. Queries are compared as they were stored."""
_TEXTS = ("text", "prompt", "completion")
_QUERIES = (*_TEXTS, "input_ids", "targets", "measurement", "coefficient")
_REQUEST_FILE = "stored_queries.parquet"


@dataclass(frozen=True)
class SeedRun:
    """An attribution of a run, and the seed of its training."""

    attribution: Attribution
    seed: int

    @property
    def run(self) -> str:
        """The run's id."""
        return self.attribution.run.id


@dataclass(frozen=True)
class SeedLds:
    """LDS over the subsets that every run was validated with, for one kind of subset.

    The mean over queries, or the value of one query.
    """

    mean_scores: float
    """Mean scores against mean φ."""
    own: float
    """A run's scores against its own φ, as a mean over the runs."""
    single: float
    """A run's scores against mean φ, as a mean over the runs."""


@dataclass(frozen=True)
class SeedMean:
    """Means over seeds, except the scores: see :func:`mean_scores`."""

    runs: tuple[SeedRun, ...]
    queries: tuple[Query, ...]
    """The queries, with their mean losses."""
    correlations: tuple[float, ...]
    """By query, the mean rank correlation of two runs' document scores over all pairs of runs."""
    identical: bool
    """Whether all runs have the same scores: the seed changes nothing in this config."""
    validations: tuple[Validation, tuple[Validation, ...]] | None
    """Mean predictions and mean φ of the subsets that all runs share, and those of each run."""

    @property
    def kinds(self) -> list[str]:
        """The kinds of shared subsets that have an LDS."""
        return [] if self.validations is None else list(self.validations[0].ranked)

    def lds(self, kind: str, query: int | None = None) -> SeedLds:
        """The LDS over the subsets of a kind, of one query or as the mean over queries."""
        assert self.validations is not None
        mean, runs = self.validations
        own, single = (
            mean_defined([_lds(each.by_kind[kind], query) for each in group])
            for group in (runs, self._crossed)
        )
        return SeedLds(_lds(mean.by_kind[kind], query), own, single)

    @cached_property
    def _crossed(self) -> list[Validation]:
        """Each run's predictions with mean φ."""
        mean, runs = self.validations or (Validation((), 0), ())
        return [
            Validation(
                tuple(
                    replace(own, actual=points.actual)
                    for own, points in zip(run.points, mean.points, strict=True)
                ),
                0,
            )
            for run in runs
        ]


def mean_over_seeds(runs: Sequence[RunFolder], attribution: str | None = None) -> SeedMean:
    """Average the attributions of runs that differ only in their seed.

    Args:
        runs: two runs or more.
        attribution: the attribution of each run; by default its latest.

    Raises:
        UsageError: if there are fewer than two runs, a run is named twice, a run has no such
            attribution, or two runs share a seed or differ in anything else.
        RunError: if a file is damaged.
    """
    seeds = _open(runs, attribution)
    correlations, identical = [], True
    for query in range(len(seeds[0].attribution.queries)):
        scores = _scores(seeds, query)
        correlations.append(mean_pairwise_spearman(scores))
        identical = identical and bool((scores == scores[0]).all())
    by_run = (each.attribution.queries for each in seeds)
    queries = tuple(_mean_query(same) for same in zip(*by_run, strict=True))
    return SeedMean(seeds, queries, tuple(correlations), identical, _shared_validations(seeds))


def mean_scores(runs: Sequence[SeedRun], query: int) -> tuple[Floats, Floats]:
    """Mean scores (document,) of a query and their standard errors over the seeds."""
    scores = _scores(runs, query)
    return scores.mean(0), scores.std(0, ddof=1) / math.sqrt(len(runs))


def mean_top(mean: SeedMean, query: int, count: int) -> Top:
    """The documents with the lowest and the highest mean scores.

    Raises:
        UsageError: if there is no such query.
    """
    first = mean.runs[0].attribution
    index = first.query(query).index
    scores, errors = mean_scores(mean.runs, index)
    helpful, harmful = (strongest(scores, count, harmful) for harmful in (False, True))
    documents = [ranked.document for ranked in (*helpful, *harmful)]
    texts = document_texts(first.run, documents)
    return Top(
        mean.queries[index],
        len(mean.queries),
        len(scores),
        helpful,
        harmful,
        {document: snippet(text) for document, text in zip(documents, texts, strict=True)},
        {},
        {document: float(errors[document]) for document in documents},
    )


def mean_columns(mean: SeedMean) -> dict[str, Floats]:
    """Mean scores and standard errors of every query, (document,) each, by column name."""
    columns: dict[str, Floats] = {}
    for query in range(len(mean.queries)):
        scores, errors = mean_scores(mean.runs, query)
        columns |= {f"score_{query}": scores, f"standard_error_{query}": errors}
    return columns


def mean_facts(mean: SeedMean, top: Top) -> dict[str, Any]:
    """Everything as JSON-ready values."""
    return {
        "runs": [
            {"run": each.run, "seed": each.seed, "attribution": each.attribution.id}
            for each in mean.runs
        ],
        **ranked_facts(top),
        "correlation": mean_defined(mean.correlations),
        "identical": mean.identical,
        "lds": None
        if mean.validations is None
        else {kind: _lds_facts(mean.validations[0], mean, kind) for kind in mean.kinds},
        "by_query": [
            {
                "query": query,
                "correlation": correlation,
                "lds": None
                if mean.validations is None
                else {kind: vars(mean.lds(kind, query)) for kind in mean.kinds},
            }
            for query, correlation in enumerate(mean.correlations)
        ],
    }


def why_no_lds(mean: SeedMean) -> str:
    """Why the mean scores have no LDS."""
    missing = [each.run for each in mean.runs if read_validation(each.attribution.path) is None]
    if missing:
        return f"no LDS of the mean: {', '.join(missing)} not validated; see: magic validate"
    return (
        "no LDS of the mean: the runs share fewer than three validated subsets, or φ was the same "
        "in all of them; validate all with the same --drop, --count and --seed"
    )


def _lds_facts(averaged: Validation, mean: SeedMean, kind: str) -> dict[str, Any]:
    own = averaged.by_kind[kind]
    return {"subsets": own.subsets, "interval": own.interval, **vars(mean.lds(kind))}


def _scores(runs: Sequence[SeedRun], query: int) -> Floats:
    """Document scores (run, document) of a query."""
    scores = [each.attribution.document_scores(query) for each in runs]
    return np.stack(scores).astype(np.float64)


def _mean_query(same: Sequence[Query]) -> Query:
    documents = zip(*(query.documents for query in same), strict=True)
    return replace(same[0], documents=tuple(map(_mean_document, documents)))


def _mean_document(same: Sequence[QueryDocument]) -> QueryDocument:
    return replace(
        same[0],
        loss_before=mean_defined(document.loss_before for document in same),
        loss_after=mean_defined(document.loss_after for document in same),
    )


def _shared_validations(
    runs: Sequence[SeedRun],
) -> tuple[Validation, tuple[Validation, ...]] | None:
    """The means over runs and each run's own points, at the subsets that all were validated with.

    Subsets are shared if their names and their documents are the same: the most helpful documents
    differ between runs. None if no kind of subset has an LDS.
    """
    read = [read_validation(each.attribution.path) for each in runs]
    validations = [validation for validation in read if validation is not None]
    if len(validations) < len(runs):
        return None
    left_out = [read_left_out(each.attribution.run) for each in runs]
    same = {n for n, d in left_out[0].items() if all(o.get(n) == d for o in left_out[1:])}
    shared: list[list[Points]] = []
    for query in (points.query for points in validations[0].points):
        points = [p for v in validations if (p := v.of_query(query)) is not None]
        if len(points) == len(runs):
            common = same.intersection(*(each.subsets for each in points))
            names = [name for name in points[0].subsets if name in common]
            shared.append([p.at([p.subsets.index(name) for name in names]) for p in points])
    mean = Validation(tuple(map(_mean_points, shared)), 0)
    by_run = (Validation(tuple(p), 0) for p in zip(*shared, strict=True))
    return None if mean.deciding is None else (mean, tuple(by_run))


def _mean_points(points: Sequence[Points]) -> Points:
    predicted = np.mean([each.predicted for each in points], axis=0)
    actual = np.mean([each.actual for each in points], axis=0)
    return replace(points[0], predicted=predicted, actual=actual)


def _lds(validation: Validation, query: int | None) -> float:
    if query is None:
        return validation.lds
    points = validation.of_query(query)
    return math.nan if points is None else points.lds


def _open(runs: Sequence[RunFolder], attribution: str | None) -> tuple[SeedRun, ...]:
    """Open the attributions, after checking that only the seed differs."""
    for first, second in combinations(runs, 2):
        if first.id == second.id:
            raise UsageError(f"run {first.id} is named twice; name each run once")
    if len(runs) < 2:
        raise UsageError(f"a mean over seeds takes two runs or more; {_START}")
    fields = [run.config_fields() for run in runs]
    opened = [open_attribution(run, attribution) for run in runs]
    for run, theirs in zip(runs[1:], fields[1:], strict=True):
        _check_config(runs[0].id, fields[0], run.id, theirs)
    seeds = tuple(SeedRun(o, f["seed"]) for o, f in zip(opened, fields, strict=True))
    for one, two in combinations(seeds, 2):
        if one.seed == two.seed:
            raise UsageError(
                f"runs {one.run} and {two.run} both have seed {one.seed}: they are the same "
                f"training; {_START}"
            )
    for other in opened[1:]:
        _check_data(opened[0], other)
    return seeds


def _check_config(first: str, ours: dict[str, Any], second: str, theirs: dict[str, Any]) -> None:
    names = [
        name
        for name in {**ours, **theirs}
        if name.split(".")[0] not in _FREE and ours.get(name) != theirs.get(name)
    ]
    if names:
        name, more = names[0], f" ({len(names) - 1} more)" if len(names) > 1 else ""
        values = f"{ours.get(name)} in the first and {theirs.get(name)} in the second{more}"
        raise _differ(first, second, f"{name} is {values}")


def _check_data(first: Attribution, second: Attribution) -> None:
    runs = first.run, second.run
    texts = [_columns(run.documents_file, _TEXTS) for run in runs]
    if not texts[0].equals(texts[1]):
        raise _differ(runs[0].id, runs[1].id, "the documents are not the same")
    ours, theirs = (_row_digests(run) for run in runs)
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            raise _differ(runs[0].id, runs[1].id, f"{name} of the rows are not the same")
    queries = [_columns(each.path / "queries.parquet", _QUERIES) for each in (first, second)]
    stored = [each.path / _REQUEST_FILE for each in (first, second)]
    inputs = [_columns(file, ("inputs",)) for file in stored if file.exists()]
    if not queries[0].equals(queries[1]) or (len(inputs) == 2 and not inputs[0].equals(inputs[1])):
        raise _differ(
            f"{runs[0].id} ({first.id})",
            f"{runs[1].id} ({second.id})",
            "the queries are not the same; name an attribution with the same queries with: "
            "--attribution ID",
        )


def _columns(file: Any, names: Sequence[str]) -> Any:
    table = read_table(file)
    return table.select([name for name in names if name in table.column_names])


def _row_digests(run: RunFolder) -> dict[str, str]:
    """By array, a digest of the rows. Rows are stored in the order of the documents."""
    digests = {}
    for name, values in RowTable(run.rows_store).arrays().items():
        digest = hashlib.sha256(f"{values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
        digests[name] = digest.hexdigest()
    return digests


def _differ(first: str, second: str, difference: str) -> UsageError:
    return UsageError(f"runs {first} and {second} differ in more than their seed: {difference}")
