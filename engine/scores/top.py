"""The documents that affect one query most, and whether they carry the query's label."""

from dataclasses import dataclass, field
from typing import Any

from engine.runs.safe_text import one_line
from engine.scores.attribution import Attribution, Query
from engine.scores.ranking import Ranked
from engine.scores.texts import data_column, document_texts

SNIPPET_LENGTH = 200


@dataclass(frozen=True)
class Top:
    """The strongest documents of one query in one or both directions."""

    query: Query
    queries: int
    documents: int
    helpful: list[Ranked] | None
    """Strongest first; None if not requested."""
    harmful: list[Ranked] | None
    snippets: dict[int, str]
    labels: dict[int, str]
    errors: dict[int, float] = field(default_factory=dict)
    """Standard errors of the scores, if these are means over several runs."""

    @property
    def listed(self) -> list[Ranked]:
        """All documents listed."""
        return [*(self.helpful or []), *(self.harmful or [])]

    @property
    def share(self) -> float:
        """Share of the query's total |score| in the listed documents."""
        return sum(ranked.share for ranked in self.listed)

    @property
    def largest(self) -> float:
        """The largest |score| listed, the scale of the bars."""
        return max((abs(ranked.score) for ranked in self.listed), default=0.0)


@dataclass(frozen=True)
class LabelMatches:
    """How many of the ``listed`` most helpful documents of a query carry its label."""

    query: int
    label: str
    matches: int
    listed: int
    chance: float
    """Expected matches of documents drawn at random."""


def read_top(
    attribution: Attribution,
    query: int,
    count: int,
    directions: tuple[str, ...] = ("helpful", "harmful"),
    label: str | None = None,
) -> Top:
    """Rank the documents of a query.

    Args:
        attribution: the scores.
        query: index of the query.
        count: number of documents in each direction.
        directions: one or both of "helpful" and "harmful".
        label: a column of the training data to show before each text.

    Raises:
        UsageError: if there is no such query.
    """
    measurement = attribution.query(query)
    helpful = attribution.ranked(query, count) if "helpful" in directions else None
    harmful = attribution.ranked(query, count, harmful=True) if "harmful" in directions else None
    documents = [ranked.document for ranked in [*(helpful or []), *(harmful or [])]]
    texts = document_texts(attribution.run, documents) if documents else []
    return Top(
        measurement,
        len(attribution.queries),
        len(attribution.document_scores(query)),
        helpful,
        harmful,
        {d: snippet(text) for d, text in zip(documents, texts, strict=True)},
        _labels(attribution, documents, label),
    )


def label_matches(attribution: Attribution, column: str, count: int) -> list[LabelMatches]:
    """Compare the label of every query with the labels of its most helpful documents.

    Args:
        attribution: the scores.
        column: a column of both the training data and the query data.
        count: number of most helpful documents to compare.

    Raises:
        UsageError: if the training data has no such column.
    """
    labels = data_column(attribution.run, column)
    by_query = []
    for query in attribution.queries:
        own = query.documents[0].columns.get(column)
        listed = attribution.ranked(query.index, count)
        matches = sum(labels[ranked.document] == own for ranked in listed)
        chance = len(listed) * labels.count(own) / len(labels)
        by_query.append(LabelMatches(query.index, str(own), matches, len(listed), chance))
    return by_query


def snippet(text: str) -> str:
    """The beginning of a text on one line, without control characters."""
    cut = text[: 2 * SNIPPET_LENGTH]
    line = one_line(cut)
    return line if len(text) == len(cut) and len(line) <= SNIPPET_LENGTH else line[:SNIPPET_LENGTH]


def top_facts(attribution: Attribution, top: Top) -> dict[str, Any]:
    """The run, the attribution and the listed documents as JSON-ready values."""
    return {"run": attribution.run.id, "attribution": attribution.id, **ranked_facts(top)}


def ranked_facts(top: Top) -> dict[str, Any]:
    """A query and its listed documents as JSON-ready values."""
    return {
        "query": top.query.index,
        "queries": top.queries,
        "text": snippet(top.query.documents[0].text),
        "reduction": top.query.reduction,
        "loss_before": top.query.before,
        "loss_after": top.query.after,
        "cut_tokens": sum(top.query.cut_tokens),
        "documents": top.documents,
        "share_shown": top.share,
        **{
            name: [_fact(top, ranked) for ranked in listed]
            for name, listed in (("helpful", top.helpful), ("harmful", top.harmful))
            if listed is not None
        },
    }


def _fact(top: Top, ranked: Ranked) -> dict[str, Any]:
    has_error = ranked.document in top.errors
    return {
        "document": ranked.document,
        "score": ranked.score,
        **({"standard_error": top.errors[ranked.document]} if has_error else {}),
        "share": ranked.share,
        **({"label": top.labels[ranked.document]} if ranked.document in top.labels else {}),
        "snippet": top.snippets[ranked.document],
    }


def _labels(attribution: Attribution, documents: list[int], label: str | None) -> dict[int, str]:
    if label is None or not documents:
        return {}
    values = data_column(attribution.run, label)
    return {document: one_line(str(values[document])) for document in documents}
