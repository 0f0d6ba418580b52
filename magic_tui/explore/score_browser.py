"""An attribution while somebody looks around in it: what is read stays for a while.

Memory does not grow with the store: every cache is of a fixed number of documents or queries.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

from engine.runs.errors import UsageError
from engine.runs.lru import Recent
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import Floats, find_attribution
from engine.runs.tables import RowTable
from engine.scores.attribution import Attribution, open_attribution
from engine.scores.document import DocumentParts, DocumentScores, read_document_scores, read_parts
from engine.scores.ranking import Aggregation, Direction, Ranking, rank_documents
from engine.scores.texts import DocumentTexts
from engine.scores.top import snippet

RANKABLE_TOKENS = 20_000_000
"""Up to this many tokens documents are also ranked by figures that need all token scores."""
KEPT_TOKENS = 2**15
"""Tokens of the documents that are kept; the latest document is kept however long it is."""
SCALE_DOCUMENTS = 10
"""Documents of each direction whose tokens make the scale for all documents."""


class ScoreBrowser:
    """One attribution and what was read of it lately; safe to be used from several threads."""

    def __init__(self, attribution: Attribution) -> None:
        """Open nothing yet but the footer of the documents' table."""
        self.attribution = attribution
        self.texts = DocumentTexts(attribution.run.documents_file)
        self.rows = RowTable(attribution.run.rows_store)
        self.snippets: Recent[int, str] = Recent(8192)
        self._rankings: Recent[tuple[int, Aggregation, Direction], Ranking] = Recent(3)
        self._aggregated: Recent[tuple[int, Aggregation], Floats] = Recent(4)
        self._parts: Recent[int, DocumentParts] = Recent(
            KEPT_TOKENS, lambda parts: len(parts[0].ids)
        )
        self._shown: Recent[tuple[int, int], DocumentScores] = Recent(
            KEPT_TOKENS, lambda shown: len(shown.tokens.ids)
        )
        self._scales: Recent[int, float] = Recent(64)

    @property
    def queries(self) -> int:
        """Number of queries."""
        return len(self.attribution.queries)

    @property
    def has_tokens(self) -> bool:
        """Whether scores of tokens were kept."""
        return self.attribution.scores.has_tokens

    def why_not_aggregation(self, aggregation: Aggregation) -> str | None:
        """Why documents cannot be ranked by an aggregation; None if they can."""
        if aggregation == "sum":
            return None
        if not self.has_tokens:
            return "this attribution keeps no scores of tokens (granularity: document)"
        tokens = self.rows.rows * self.rows.tokens
        if tokens > RANKABLE_TOKENS:
            return f"it would read all {tokens:,} token scores; documents stay ranked by their sum"
        return None

    def ranking(
        self, query: int, aggregation: Aggregation = "sum", direction: Direction = "all"
    ) -> Ranking:
        """The documents of a query in their order."""
        key = (query, aggregation, direction)
        return self._rankings.made(
            key, lambda: rank_documents(self.values(query, aggregation), direction)
        )

    def values(self, query: int, aggregation: Aggregation = "sum") -> Floats:
        """One figure a document, (document,).

        Raises:
            UsageError: if there is no such query, or the figure would take too long.
        """
        self.attribution.query(query)
        reason = self.why_not_aggregation(aggregation)
        if reason is not None:
            raise UsageError(reason)
        return self._aggregated.made(
            (query, aggregation),
            lambda: self.attribution.aggregated_scores(query, self.rows, aggregation),
        )

    def load_snippets(self, documents: Sequence[int]) -> None:
        """Read the beginnings of some documents that are not kept yet."""
        missing = [d for d in documents if self.snippets.get(d) is None]
        for document, text in zip(missing, self.texts.texts(missing), strict=True):
            self.snippets.put(document, snippet(text))

    def shown(self, query: int, document: int) -> DocumentScores:
        """A document's tokens, their texts and scores.

        Raises:
            UsageError: if there is no such query or document.
        """
        return self._shown.made((query, document), lambda: self._read(query, document))

    def kept(self, query: int, document: int) -> DocumentScores | None:
        """A document if it was read before: never reads."""
        return self._shown.get((query, document))

    def scale(self, query: int) -> float:
        """The strongest token of a query's strongest documents: a scale for all documents."""
        return self._scales.made(query, lambda: self._scale(query))

    def strongest(self, query: int, count: int, harmful: bool) -> list[int]:
        """The documents that help (or harm) a query most."""
        ranking = self.ranking(query, "sum", "harmful" if harmful else "helpful")
        return [int(document) for document in ranking.order[:count]]

    def _read(self, query: int, document: int) -> DocumentScores:
        count = len(self.attribution.document_scores(query))
        if not 0 <= document < count:
            # Its rows would be searched for in vain.
            return read_document_scores(self.attribution, query, document)
        parts = self._parts.made(
            document, lambda: read_parts(self.attribution, document, self.rows, self.texts)
        )
        return read_document_scores(self.attribution, query, document, parts)

    def _scale(self, query: int) -> float:
        documents = [
            document
            for harmful in (False, True)
            for document in self.strongest(query, SCALE_DOCUMENTS, harmful)
        ]
        return max((self.shown(query, d).strongest for d in documents), default=0.0)


def explore(run: RunFolder, attribution: str | None = None) -> ScoreBrowser:
    """A complete attribution of a run; the latest if no id is given.

    Raises:
        UsageError: if there is none.
        RunError: if a file of it is damaged.
    """
    path = find_attribution(run.attributions, attribution)
    changed = (path / "complete.json").stat().st_mtime_ns
    return _explored(run.path, path.name, changed)


@functools.lru_cache(maxsize=2)
def _explored(run: Path, attribution: str, changed: int) -> ScoreBrowser:
    return ScoreBrowser(open_attribution(RunFolder(run), attribution))
