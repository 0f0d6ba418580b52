"""One attribution of a run, opened for reading: its queries, their documents and the scores."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from engine.runs.errors import MagicError, RunError, UsageError
from engine.runs.lru import Recent
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import (
    Floats,
    ScoreReader,
    find_attribution,
    list_attributions,
    read_completion,
)
from engine.runs.tables import column_names, read_table
from engine.scores.texts import DocumentTexts, as_read

_PLAIN = {
    *("id", "text", "input_ids", "targets"),
    *("loss_before", "loss_after", "measurement", "coefficient"),
    *("cut_tokens", "text_end"),
}
"""Columns of a queries table that are not those of the query data."""
_KEPT_QUERIES = 4
"""Queries whose document scores stay in memory: those of millions of documents take room."""


@dataclass(frozen=True)
class QueryDocument:
    """One document of the query data and its mean loss before and after training."""

    text: str
    """As far as the model reads it, with a mark if it goes on."""
    loss_before: float
    loss_after: float
    coefficient: float
    columns: dict[str, Any]
    whole: str | None = None
    """All of the text, if it is cut."""
    cut_tokens: int = 0
    """How many tokens of it the model does not read."""


@dataclass(frozen=True)
class Query:
    """One measurement φ = Σ coefficient·loss over its documents."""

    index: int
    documents: tuple[QueryDocument, ...]

    @property
    def before(self) -> float:
        """The measurement before training."""
        return sum(d.coefficient * d.loss_before for d in self.documents)

    @property
    def after(self) -> float:
        """The measurement after training."""
        return sum(d.coefficient * d.loss_after for d in self.documents)

    @property
    def cut_tokens(self) -> list[int]:
        """How many tokens each of its documents that is cut has lost."""
        return [document.cut_tokens for document in self.documents if document.cut_tokens]

    @property
    def reduction(self) -> str | None:
        """How several documents make one measurement; None if there is just one."""
        if len(self.documents) == 1:
            return None
        weights = [d.coefficient for d in self.documents]
        asked = _combined([w for w in weights if w >= 0])
        against = [w for w in weights if w < 0]
        return f"{asked} less {_combined(against)}" if against else asked


@dataclass(frozen=True)
class Ranked:
    """A training document, its score, and its share of the query's total |score|."""

    document: int
    score: float
    share: float


@dataclass(frozen=True)
class Attribution:
    """Reads what is asked for, when it is asked for."""

    run: RunFolder
    path: Path
    scores: ScoreReader
    _scores: Recent[int, Floats] = field(
        default_factory=lambda: Recent(_KEPT_QUERIES), repr=False, compare=False
    )

    @property
    def id(self) -> str:
        """The attribution's id."""
        return self.path.name

    @cached_property
    def queries(self) -> list[Query]:
        """All measurements, in the order of the scores' query axis."""
        return _read_queries(self.path / "queries.parquet", self.scores.queries)

    def query(self, index: int) -> Query:
        """One measurement.

        Raises:
            UsageError: if there is none of this index.
        """
        if not 0 <= index < len(self.queries):
            known = f"0 to {len(self.queries) - 1}" if len(self.queries) > 1 else "only query 0"
            raise UsageError(
                f"attribution {self.id} of run {self.run.id} has no query {index}; there is {known}"
            )
        return self.queries[index]

    def ranked(self, query: int, count: int, harmful: bool = False) -> list[Ranked]:
        """The documents that help (or harm) a query most, strongest first.

        Documents whose score has the other sign, or is zero, are never listed.
        """
        return strongest(self.document_scores(query), count, harmful)

    def rank(self, query: int, document: int) -> int:
        """Place of a document among those of its sign, the strongest being 1."""
        scores = self.document_scores(query)
        score = scores[document]
        return int(((scores > score) if score > 0 else (scores < score)).sum()) + 1

    def document_scores(self, query: int) -> Floats:
        """Scores (document,) of a query."""
        return self._scores.made(query, lambda: self.scores.document_scores(query))


def strongest(scores: Floats, count: int, harmful: bool = False) -> list[Ranked]:
    """The documents of the lowest (or highest) scores, (document,), that have that sign."""
    total = float(np.abs(scores).sum())
    order = np.argsort(scores, kind="stable")
    chosen = order[::-1] if harmful else order
    sign = 1 if harmful else -1
    return [
        Ranked(int(d), float(scores[d]), float(abs(scores[d])) / total)
        for d in chosen[:count]
        if sign * scores[d] > 0
    ]


def open_attribution(run: RunFolder, wanted: str | None = None) -> Attribution:
    """A complete attribution of a run; the latest if no id is given.

    Raises:
        UsageError: if there is none, or the run is of an unknown format version.
    """
    run.record()
    path = find_attribution(run.attributions, wanted)
    return Attribution(run, path, ScoreReader(path))


def attribution_with(run: RunFolder, query: int, wanted: str | None = None) -> Attribution:
    """The attribution that a query is read from: every attribution counts its queries from 0.

    It is the one named, else the latest that has a query of this number.

    Raises:
        UsageError: if there is none, saying which attribution has such a query.
    """
    opened = open_attribution(run, wanted)
    if 0 <= query < opened.scores.queries:
        return opened
    having = [name for name in _attributions_of(run) if 0 <= query < _query_count(run, name)]
    if wanted is None and having:
        return open_attribution(run, having[-1])
    if having:
        raise UsageError(
            f"attribution {opened.id} of run {run.id} has no query {query}, but {having[-1]} has: "
            f"add --attribution {having[-1]}"
        )
    opened.query(query)
    return opened


def _attributions_of(run: RunFolder) -> list[str]:
    return [folder.name for folder in list_attributions(run.attributions)]


def _query_count(run: RunFolder, attribution: str) -> int:
    # A damaged one is not the one that is looked for.
    with contextlib.suppress(MagicError, KeyError, IndexError, TypeError):
        record = read_completion(run.attributions / attribution) or {}
        return int(record["arrays"]["document_scores"]["shape"][0])
    return 0


def document_texts(run: RunFolder, documents: Sequence[int]) -> list[str]:
    """Texts of some training documents, in the order asked: the text, or prompt → completion."""
    return DocumentTexts(run.documents_file).texts(documents)


def data_column(run: RunFolder, name: str) -> list[Any]:
    """One column of the training data, a value a document.

    Raises:
        UsageError: if there is no such column.
    """
    known = column_names(run.documents_file)
    if name not in known:
        raise UsageError(
            f"the documents of run {run.id} have no column {name!r}; there are {', '.join(known)}"
        )
    return list(read_table(run.documents_file, [name]).column(name).to_pylist())


def _read_queries(path: Path, count: int) -> list[Query]:
    table = read_table(path)
    try:
        groups: dict[int, list[QueryDocument]] = {index: [] for index in range(count)}
        unread = [name for name in table.column_names if name == "input_ids"]
        for row in table.drop_columns(unread).to_pylist():
            groups[row["measurement"]].append(_query_document(row))
    except (KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({type(error).__name__}: {error})") from None
    if not all(groups.values()):
        raise RunError(f"{path} does not name every query that has scores; make it again")
    return [Query(index, tuple(documents)) for index, documents in groups.items()]


def _query_document(row: dict[str, Any]) -> QueryDocument:
    others = {name: value for name, value in row.items() if name not in _PLAIN}
    before, after = float(row["loss_before"]), float(row["loss_after"])
    text, end = _text_of(row), row.get("text_end")
    (shown,) = as_read([text], end)
    return QueryDocument(
        shown,
        before,
        after,
        float(row["coefficient"]),
        others,
        None if end is None else text,
        int(row.get("cut_tokens") or 0),
    )


def _text_of(row: dict[str, Any]) -> str:
    if "text" in row:
        return str(row["text"] or "")
    return f"{row['prompt'] or ''} → {row['completion'] or ''}"


def _combined(coefficients: list[float]) -> str:
    """``1 document``, ``sum of 3 documents`` or ``mean of 3 documents``."""
    if len(coefficients) == 1:
        return "1 document"
    word = "sum" if all(math.isclose(abs(c), 1.0) for c in coefficients) else "mean"
    return f"{word} of {len(coefficients)} documents"
