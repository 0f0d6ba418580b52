"""Scores averaged over runs that differ only in their seed: standard data attribution.

MAGIC attributes one training. What is commonly asked for is the effect of a document on the query's
loss φ in expectation over seeds, and the derivative of the expectation is the expectation of the
derivative (arXiv 2504.16430, Remark 1): the mean of the runs' scores estimates it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.evaluation.average_lds import AverageLds, read_average_lds
from engine.evaluation.predictions import Floats, mean, mean_spearman
from engine.evaluation.seeds import Seeded
from engine.scores.attribution import Query, QueryDocument, document_texts, strongest
from engine.scores.top import Top, ranked_facts, snippet


@dataclass(frozen=True)
class Average:
    """What is known of a mean over seeds besides the scores themselves."""

    seeds: tuple[Seeded, ...]
    queries: tuple[Query, ...]
    """Those asked, with their mean losses."""
    agreements: tuple[float, ...]
    """By query, the rank correlation of two runs' document scores, on average over all pairs."""
    identical: bool
    """Whether all runs have the same scores: then the seed changes nothing in this config."""
    lds: AverageLds | None

    def figures(self, query: int | None = None) -> dict[str, dict[str, float]] | None:
        """By kind of subset, the LDS of one query or of all; None if there is none of any."""
        lds = self.lds
        return None if lds is None else {kind: lds.figures(kind, query) for kind in lds.kinds}


def read_average(seeds: tuple[Seeded, ...]) -> Average:
    """Go through the scores of all queries of all runs.

    Raises:
        RunError: if a file is damaged.
    """
    queries = range(len(seeds[0].opened.queries))
    agreements, identical = [], True
    for query in queries:
        scores = _scores(seeds, query)
        agreements.append(mean_spearman(scores))
        identical = identical and bool((scores == scores[0]).all())
    asked = tuple(_mean_query([each.opened.query(query) for each in seeds]) for query in queries)
    return Average(seeds, asked, tuple(agreements), identical, read_average_lds(seeds))


def mean_scores(seeds: Sequence[Seeded], query: int) -> tuple[Floats, Floats]:
    """Mean scores (document,) of a query, and their standard errors over the seeds."""
    scores = _scores(seeds, query)
    return scores.mean(0), scores.std(0, ddof=1) / math.sqrt(len(seeds))


def average_top(average: Average, query: int, count: int) -> Top:
    """The documents that help and harm a query most on average over the seeds.

    Raises:
        UsageError: if there is no such query.
    """
    first = average.seeds[0].opened
    index = first.query(query).index
    scores, errors = mean_scores(average.seeds, index)
    helpful, harmful = (strongest(scores, count, harmful) for harmful in (False, True))
    shown = [ranked.document for ranked in (*helpful, *harmful)]
    texts = document_texts(first.run, shown)
    return Top(
        average.queries[index],
        len(average.queries),
        len(scores),
        helpful,
        harmful,
        {document: snippet(text) for document, text in zip(shown, texts, strict=True)},
        {},
        {document: float(errors[document]) for document in shown},
    )


def average_columns(average: Average) -> dict[str, Floats]:
    """By name, the mean scores and standard errors of every query, (document,) each."""
    columns: dict[str, Floats] = {}
    for query in range(len(average.queries)):
        scores, errors = mean_scores(average.seeds, query)
        columns |= {f"score_{query}": scores, f"standard_error_{query}": errors}
    return columns


def average_facts(average: Average, top: Top) -> dict[str, Any]:
    """Everything as JSON-ready values."""
    lds = average.lds
    return {
        "runs": [
            {"run": each.run, "seed": each.seed, "attribution": each.opened.id}
            for each in average.seeds
        ],
        **ranked_facts(top),
        "agreement": mean(average.agreements),
        "identical": average.identical,
        "lds": None if lds is None else {kind: _lds_facts(lds, kind) for kind in lds.kinds},
        "by_query": [
            {"query": query, "agreement": agreement, "lds": average.figures(query)}
            for query, agreement in enumerate(average.agreements)
        ],
    }


def _lds_facts(lds: AverageLds, kind: str) -> dict[str, Any]:
    averaged = lds.averaged.by_kind[kind]
    return {"subsets": averaged.subsets, "interval": averaged.interval, **lds.figures(kind)}


def _scores(seeds: Sequence[Seeded], query: int) -> Floats:
    """Document scores (run, document) of a query."""
    return np.stack([each.opened.document_scores(query) for each in seeds]).astype(np.float64)


def _mean_query(asked: Sequence[Query]) -> Query:
    documents = zip(*(query.documents for query in asked), strict=True)
    return replace(asked[0], documents=tuple(map(_mean_document, documents)))


def _mean_document(same: Sequence[QueryDocument]) -> QueryDocument:
    return replace(
        same[0],
        loss_before=mean(document.loss_before for document in same),
        loss_after=mean(document.loss_after for document in same),
    )
