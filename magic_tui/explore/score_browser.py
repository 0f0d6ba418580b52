"""Cached access to one attribution, for browsing.

Memory is independent of the store's size: every cache holds a fixed number of entries.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

from engine.runs.errors import UsageError
from engine.runs.lru import LRUCache
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import Floats, find_attribution
from engine.runs.tables import RowTable
from engine.scores.attribution import Attribution, open_attribution
from engine.scores.document import DocumentParts, DocumentScores, read_document_scores, read_parts
from engine.scores.ranking import Aggregation, Direction, Ranking, rank_documents
from engine.scores.texts import DocumentTexts
from engine.scores.top import snippet
from magic_tui.explore.document_lines import SCALE_DOCUMENTS

RANKABLE_TOKENS = 20_000_000
"""The largest run whose documents can be ranked by an aggregation of token scores."""
CACHED_TOKENS = 2**15
"""Capacity of the document caches, in tokens; the latest document is always cached."""


class ScoreBrowser:
    """One attribution and caches of its rankings, documents and snippets; thread-safe."""

    def __init__(self, attribution: Attribution) -> None:
        """Open the documents' table and the table of rows; scores are read on demand."""
        self.attribution = attribution
        self.texts = DocumentTexts(attribution.run.documents_file)
        self.rows = RowTable(attribution.run.rows_store)
        self.snippets: LRUCache[int, str] = LRUCache(8192)
        self._rankings: LRUCache[tuple[int, Aggregation, Direction], Ranking] = LRUCache(3)
        self._aggregated: LRUCache[tuple[int, Aggregation], Floats] = LRUCache(4)
        self._parts: LRUCache[int, DocumentParts] = LRUCache(
            CACHED_TOKENS, lambda parts: len(parts[0].ids)
        )
        self._documents: LRUCache[tuple[int, int], DocumentScores] = LRUCache(
            CACHED_TOKENS, lambda document: len(document.tokens.ids)
        )
        self._scales: LRUCache[int, float] = LRUCache(64)

    @property
    def queries(self) -> int:
        """Number of queries."""
        return len(self.attribution.queries)

    @property
    def has_tokens(self) -> bool:
        """Whether the attribution stores token scores."""
        return self.attribution.scores.has_tokens

    def aggregation_problem(self, aggregation: Aggregation) -> str | None:
        """Why documents cannot be ranked by an aggregation; None if they can."""
        if aggregation == "sum":
            return None
        if not self.has_tokens:
            return "this attribution has no token scores (granularity: document)"
        tokens = self.rows.rows * self.rows.tokens
        if tokens > RANKABLE_TOKENS:
            return f"this would read all {tokens:,} token scores; documents are ranked by their sum"
        return None

    def ranking(
        self, query: int, aggregation: Aggregation = "sum", direction: Direction = "all"
    ) -> Ranking:
        """The documents of a query, ranked."""
        key = (query, aggregation, direction)
        return self._rankings.get_or_create(
            key, lambda: rank_documents(self.values(query, aggregation), direction)
        )

    def values(self, query: int, aggregation: Aggregation = "sum") -> Floats:
        """(document,) Aggregated scores.

        Raises:
            UsageError: if there is no such query, or the aggregation is unavailable.
        """
        self.attribution.query(query)
        reason = self.aggregation_problem(aggregation)
        if reason is not None:
            raise UsageError(reason)
        return self._aggregated.get_or_create(
            (query, aggregation),
            lambda: self.attribution.aggregated_scores(query, self.rows, aggregation),
        )

    def load_snippets(self, documents: Sequence[int]) -> None:
        """Read the beginnings of documents that are not cached yet."""
        missing = [d for d in documents if self.snippets.get(d) is None]
        for document, text in zip(missing, self.texts.texts(missing), strict=True):
            self.snippets.put(document, snippet(text))

    def document(self, query: int, document: int) -> DocumentScores:
        """A document's tokens with their texts and scores.

        Raises:
            UsageError: if there is no such query or document.
        """
        return self._documents.get_or_create((query, document), lambda: self._read(query, document))

    def scale(self, query: int) -> float:
        """The largest |token score| among a query's strongest documents: the common scale."""
        return self._scales.get_or_create(query, lambda: self._scale(query))

    def strongest(self, query: int, count: int, harmful: bool) -> list[int]:
        """The most helpful (or most harmful) documents of a query."""
        ranking = self.ranking(query, "sum", "harmful" if harmful else "helpful")
        return [int(document) for document in ranking.order[:count]]

    def _read(self, query: int, document: int) -> DocumentScores:
        count = len(self.attribution.document_scores(query))
        if not 0 <= document < count:
            # read_document_scores raises; do not search the rows first.
            return read_document_scores(self.attribution, query, document)
        parts = self._parts.get_or_create(
            document, lambda: read_parts(self.attribution, document, self.rows, self.texts)
        )
        return read_document_scores(self.attribution, query, document, parts)

    def _scale(self, query: int) -> float:
        documents = [
            document
            for harmful in (False, True)
            for document in self.strongest(query, SCALE_DOCUMENTS, harmful)
        ]
        return max((self.document(query, d).strongest for d in documents), default=0.0)


def browse(run: RunFolder, attribution: str | None = None) -> ScoreBrowser:
    """Open a complete attribution of a run, by default the latest.

    Raises:
        UsageError: if there is none.
        RunError: if a file of it is damaged.
    """
    path = find_attribution(run.attributions, attribution)
    changed = (path / "complete.json").stat().st_mtime_ns
    return _browser(run.path, path.name, changed)


@functools.lru_cache(maxsize=2)
def _browser(run: Path, attribution: str, changed: int) -> ScoreBrowser:
    return ScoreBrowser(open_attribution(RunFolder(run), attribution))
