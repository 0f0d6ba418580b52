"""One attribution of a run, opened for reading: its queries and the scores of the documents."""

import contextlib
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.runs.arrays import rows_per_chunk
from engine.runs.errors import MagicError, RunError, UsageError
from engine.runs.lru import LRUCache
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import (
    Floats,
    ScoreReader,
    find_attribution,
    list_attributions,
    read_completion,
)
from engine.runs.tables import RowTable, read_table
from engine.scores.ranking import Aggregation, Ranked, strongest
from engine.scores.texts import as_read

_ADDED = {
    *("id", "text", "input_ids", "targets"),
    *("loss_before", "loss_after", "measurement", "coefficient"),
    *("cut_tokens", "text_end"),
}
"""Columns of a queries table that magic added to those of the query data."""
_CACHED_QUERIES = 4
"""Queries whose document scores stay in memory."""


@dataclass(frozen=True)
class QueryDocument:
    """One document of the query data, and its mean loss before and after training."""

    text: str
    """The text that the model reads, with a mark if the document is longer."""
    loss_before: float
    loss_after: float
    coefficient: float
    """Weight of its loss in the measurement."""
    columns: dict[str, Any]
    """The columns of the query data."""
    whole: str | None = None
    """The whole text, if it is cut."""
    cut_tokens: int = 0
    """Tokens that the model does not read."""


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
        """Tokens that the model does not read, for each document that is cut."""
        return [document.cut_tokens for document in self.documents if document.cut_tokens]

    @property
    def reduction(self) -> str | None:
        """How several documents make one measurement; None for a single document."""
        if len(self.documents) == 1:
            return None
        weights = [d.coefficient for d in self.documents]
        added = _combined([w for w in weights if w >= 0])
        subtracted = [w for w in weights if w < 0]
        return f"{added} less {_combined(subtracted)}" if subtracted else added


@dataclass(frozen=True)
class Attribution:
    """Reads queries and scores on first use."""

    run: RunFolder
    path: Path
    scores: ScoreReader
    _scores: LRUCache[int, Floats] = field(
        default_factory=lambda: LRUCache(_CACHED_QUERIES), repr=False, compare=False
    )

    @property
    def id(self) -> str:
        """The attribution's id."""
        return self.path.name

    @cached_property
    def queries(self) -> list[Query]:
        """All queries, in the order of the scores' query axis."""
        return _read_queries(self.path / "queries.parquet", self.scores.queries)

    def query(self, index: int) -> Query:
        """One query.

        Raises:
            UsageError: if there is no query of this index.
        """
        if not 0 <= index < len(self.queries):
            known = f"0 to {len(self.queries) - 1}" if len(self.queries) > 1 else "only query 0"
            raise UsageError(
                f"attribution {self.id} of run {self.run.id} has no query {index}; there is {known}"
            )
        return self.queries[index]

    def ranked(self, query: int, count: int, harmful: bool = False) -> list[Ranked]:
        """The most helpful (or harmful) documents; see :func:`engine.scores.ranking.strongest`."""
        return strongest(self.document_scores(query), count, harmful)

    def rank(self, query: int, document: int) -> int:
        """Rank of a document among those with a score of its sign; the strongest has rank 1."""
        scores = self.document_scores(query)
        score = scores[document]
        return int(((scores > score) if score > 0 else (scores < score)).sum()) + 1

    def document_scores(self, query: int) -> Floats:
        """Scores (document,) of a query."""
        return self._scores.get_or_create(query, lambda: self.scores.document_scores(query))

    def aggregated_scores(self, query: int, rows: RowTable, aggregation: Aggregation) -> Floats:
        """One value for each document, (document,), made from the scores of its tokens.

        Args:
            query: index of the query.
            rows: the run's rows.
            aggregation: "sum" is the document's score; "mean" divides it by the number of tokens
                with a loss; "strongest" is the token score of largest size, with its sign. All
                tokens are read unless it is "sum".
        """
        scores = self.document_scores(query)
        if aggregation == "sum":
            return scores
        extremes = np.zeros(len(scores), np.float64)
        counts = np.zeros(len(scores), np.int64)
        block = rows_per_chunk(8 * rows.tokens)
        for start in range(0, rows.rows, block):
            part = slice(start, start + block)
            targets = rows.targets(part)
            owners = rows.document_ids(part)[targets]
            if aggregation == "strongest":
                _update_extremes(extremes, owners, self.scores.token_scores(query, part)[targets])
            else:
                counts += np.bincount(owners, minlength=len(scores))
        return scores / np.maximum(counts, 1) if aggregation == "mean" else extremes


def open_attribution(run: RunFolder, attribution: str | None = None) -> Attribution:
    """Open a complete attribution of a run, by default the latest.

    Raises:
        UsageError: if there is none, or the run is of an unknown format version.
    """
    run.record()
    path = find_attribution(run.attributions, attribution)
    return Attribution(run, path, ScoreReader(path))


def attribution_with(run: RunFolder, query: int, attribution: str | None = None) -> Attribution:
    """Open an attribution that has a query of an index: the one named, or the latest that has.

    Raises:
        UsageError: if there is none; the message names an attribution that has such a query.
    """
    opened = open_attribution(run, attribution)
    if 0 <= query < opened.scores.queries:
        return opened
    names = [folder.name for folder in list_attributions(run.attributions)]
    candidates = [name for name in names if 0 <= query < _query_count(run, name)]
    if attribution is None and candidates:
        return open_attribution(run, candidates[-1])
    if candidates:
        raise UsageError(
            f"attribution {opened.id} of run {run.id} has no query {query}, but {candidates[-1]} "
            f"has: add --attribution {candidates[-1]}"
        )
    opened.query(query)
    return opened


def _update_extremes(extremes: Floats, owners: NDArray[np.int64], values: Floats) -> None:
    """Replace each document's value by the value of largest size, sign kept."""
    order = np.argsort(np.abs(values), kind="stable")
    owners, values = owners[order], values[order]
    stronger = np.abs(values) > np.abs(extremes[owners])
    # Of several values for one document the last assignment stays, which is the largest.
    extremes[owners[stronger]] = values[stronger]


def _query_count(run: RunFolder, attribution: str) -> int:
    # A damaged attribution counts as one without queries.
    with contextlib.suppress(MagicError, KeyError, IndexError, TypeError):
        record = read_completion(run.attributions / attribution) or {}
        return int(record["arrays"]["document_scores"]["shape"][0])
    return 0


def _read_queries(path: Path, count: int) -> list[Query]:
    table = read_table(path)
    try:
        groups: dict[int, list[QueryDocument]] = {index: [] for index in range(count)}
        columns = [name for name in table.column_names if name != "input_ids"]
        for row in table.select(columns).to_pylist():
            groups[row["measurement"]].append(_query_document(row))
    except (KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({type(error).__name__}: {error})") from None
    if not all(groups.values()):
        raise RunError(f"{path} does not list every query that has scores; attribute again")
    return [Query(index, tuple(documents)) for index, documents in groups.items()]


def _query_document(row: dict[str, Any]) -> QueryDocument:
    columns = {name: value for name, value in row.items() if name not in _ADDED}
    before, after = float(row["loss_before"]), float(row["loss_after"])
    text, end = _text_of(row), row.get("text_end")
    (read,) = as_read([text], end)
    return QueryDocument(
        read,
        before,
        after,
        float(row["coefficient"]),
        columns,
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
