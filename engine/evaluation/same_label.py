"""How often a query's most helpful documents share a label with it, against chance."""

from dataclasses import dataclass

from engine.scores.attribution import Attribution, data_column


@dataclass(frozen=True)
class LabelMatches:
    """Of the ``listed`` most helpful documents of a query, how many carry its label."""

    query: int
    label: str
    matches: int
    listed: int
    chance: float
    """Matches expected of documents drawn at random."""


def label_matches(attribution: Attribution, column: str, count: int) -> list[LabelMatches]:
    """Compare the labels of every query with those of its most helpful documents.

    Args:
        attribution: where to read.
        column: a column of both the training data and the query data.
        count: how many of the most helpful documents to look at.

    Raises:
        UsageError: if the training data has no such column.
    """
    labels = data_column(attribution.run, column)
    found = []
    for query in attribution.queries:
        own = query.documents[0].columns.get(column)
        listed = attribution.ranked(query.index, count)
        matches = sum(labels[ranked.document] == own for ranked in listed)
        chance = len(listed) * labels.count(own) / len(labels)
        found.append(LabelMatches(query.index, str(own), matches, len(listed), chance))
    return found
