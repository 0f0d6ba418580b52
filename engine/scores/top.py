"""The documents that move one query most, with everything a screen or a script shows of them."""

from dataclasses import dataclass, field
from typing import Any

from engine.runs.safe_text import one_line
from engine.scores.attribution import (
    Attribution,
    Query,
    Ranked,
    data_column,
    document_texts,
)

SNIPPET_LENGTH = 200


@dataclass(frozen=True)
class Top:
    """The strongest documents of one query in one or both directions."""

    query: Query
    queries: int
    documents: int
    helpful: list[Ranked] | None
    """Strongest first; None if not asked for."""
    harmful: list[Ranked] | None
    snippets: dict[int, str]
    labels: dict[int, str]
    errors: dict[int, float] = field(default_factory=dict)
    """Standard errors of the scores, where these are means over several runs."""

    @property
    def shown(self) -> list[Ranked]:
        """All that is listed."""
        return [*(self.helpful or []), *(self.harmful or [])]

    @property
    def share(self) -> float:
        """Share of the query's total |score| that the listed documents carry."""
        return sum(ranked.share for ranked in self.shown)

    @property
    def largest(self) -> float:
        """The largest |score| listed: what a full bar stands for."""
        return max((abs(ranked.score) for ranked in self.shown), default=0.0)


def read_top(
    attribution: Attribution,
    query: int,
    count: int,
    directions: tuple[str, ...] = ("helpful", "harmful"),
    label: str | None = None,
) -> Top:
    """Rank the documents of a query.

    Args:
        attribution: where to read.
        query: index of the query.
        count: how many documents a direction.
        directions: which of "helpful" and "harmful".
        label: a column of the training data to show before each text.

    Raises:
        UsageError: if there is no such query.
    """
    measured = attribution.query(query)
    helpful = attribution.ranked(query, count) if "helpful" in directions else None
    harmful = attribution.ranked(query, count, harmful=True) if "harmful" in directions else None
    shown = [ranked.document for ranked in [*(helpful or []), *(harmful or [])]]
    texts = document_texts(attribution.run, shown) if shown else []
    return Top(
        measured,
        len(attribution.queries),
        len(attribution.document_scores(query)),
        helpful,
        harmful,
        {d: snippet(text) for d, text in zip(shown, texts, strict=True)},
        _labels(attribution, shown, label),
    )


def snippet(text: str) -> str:
    """The beginning of a text, safe and on one line."""
    cut = text[: 2 * SNIPPET_LENGTH]
    line = one_line(cut)
    return line if len(text) == len(cut) and len(line) <= SNIPPET_LENGTH else line[:SNIPPET_LENGTH]


def top_facts(attribution: Attribution, top: Top) -> dict[str, Any]:
    """The same as JSON-ready values, and where they were read."""
    return {"run": attribution.run.id, "attribution": attribution.id, **ranked_facts(top)}


def ranked_facts(top: Top) -> dict[str, Any]:
    """A query and the documents listed, as JSON-ready values."""
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
    known = ranked.document in top.errors
    return {
        "document": ranked.document,
        "score": ranked.score,
        **({"standard_error": top.errors[ranked.document]} if known else {}),
        "share": ranked.share,
        **({"label": top.labels[ranked.document]} if ranked.document in top.labels else {}),
        "snippet": top.snippets[ranked.document],
    }


def _labels(attribution: Attribution, documents: list[int], label: str | None) -> dict[int, str]:
    if label is None or not documents:
        return {}
    values = data_column(attribution.run, label)
    return {document: one_line(str(values[document])) for document in documents}
