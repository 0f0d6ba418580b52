"""A training document next to one query: its tokens, their scores and its place among all."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.runs.errors import UsageError
from engine.runs.tables import RowTable
from engine.scores.attribution import Attribution, Query
from engine.scores.document import (
    DocumentTokens,
    Piece,
    decode_pieces,
    read_document,
    token_scores,
)
from engine.scores.texts import CUT_MARK, DocumentTexts

Parts = tuple[DocumentTokens, list[Piece]]


@dataclass(frozen=True)
class ShownDocument:
    """Everything a screen or a script shows of a document for a query."""

    run: str
    attribution: str
    query: Query
    queries: int
    document: int
    documents: int
    score: float
    rank: int
    tokens: DocumentTokens
    pieces: list[Piece]
    scores: Any
    """Scores (token,), or None if only documents' scores were kept."""

    @cached_property
    def piece_scores(self) -> NDArray[np.float64]:
        """Sums over the tokens of each piece; 0 if there are no scores per token."""
        if self.scores is None or not self.pieces:
            return np.zeros(len(self.pieces))
        return np.add.reduceat(self.scores, self._starts).astype(np.float64)

    @cached_property
    def marked_pieces(self) -> list[Piece]:
        """The pieces, the last of them with a mark if the document is cut there."""
        if not self.tokens.cut or not self.pieces:
            return self.pieces
        last = self.pieces[-1]
        return [*self.pieces[:-1], replace(last, text=last.text + CUT_MARK)]

    @cached_property
    def learned(self) -> NDArray[np.bool_]:
        """Whether a loss was taken on any token of each piece."""
        if not self.pieces:
            return np.zeros(0, np.bool_)
        return np.logical_or.reduceat(self.tokens.targets, self._starts)

    @cached_property
    def strongest(self) -> float:
        """The largest |score| of a piece: the scale of the colours."""
        return float(np.abs(self.piece_scores).max(initial=0.0))

    @cached_property
    def _starts(self) -> list[int]:
        return [piece.start for piece in self.pieces]

    def strongest_pieces(self, count: int) -> list[int]:
        """Indices of the pieces of largest |score|, the strongest first; never one of zero."""
        sizes = np.abs(self.piece_scores)
        order = np.argsort(-sizes, kind="stable")[:count]
        return [int(index) for index in order if sizes[index] > 0]


def read_parts(
    attribution: Attribution,
    document: int,
    table: RowTable | None = None,
    texts: DocumentTexts | None = None,
) -> Parts:
    """A document's tokens and their texts, which are the same for every query.

    ``table`` and ``texts`` are read from if they are open already.

    Raises:
        UsageError: if no row holds it.
    """
    tokens = read_document(attribution.run, document, table)
    texts = texts or DocumentTexts(attribution.run.documents_file)
    if tokens.whole:
        return tokens, [Piece(texts.texts([document])[0], 0, 1)]
    tokens = replace(tokens, cut=texts.cut_tokens(document))
    return tokens, decode_pieces(attribution.run.tokenizer_file, tokens.ids)


def read_shown(
    attribution: Attribution, query: int, document: int, parts: Parts | None = None
) -> ShownDocument:
    """Read a document's tokens and scores.

    Args:
        attribution: where to read.
        query: index of the query.
        document: id of the document.
        parts: its tokens and texts, if they have been read already.

    Raises:
        UsageError: if there is no such query or document.
    """
    measured = attribution.query(query)
    scores = attribution.document_scores(query)
    if not 0 <= document < len(scores):
        raise UsageError(
            f"run {attribution.run.id} has no document {document}; there are 0 to {len(scores) - 1}"
        )
    tokens, pieces = parts or read_parts(attribution, document)
    return ShownDocument(
        attribution.run.id,
        attribution.id,
        measured,
        len(attribution.queries),
        document,
        len(scores),
        float(scores[document]),
        attribution.rank(query, document),
        tokens,
        pieces,
        token_scores(attribution, query, tokens),
    )


def shown_facts(shown: ShownDocument) -> dict[str, Any]:
    """The same as JSON-ready values."""
    texts = {index: piece.text for piece in shown.pieces for index in (piece.stop - 1,)}
    count = 0 if shown.tokens.whole else len(shown.tokens.ids)
    return {
        "run": shown.run,
        "attribution": shown.attribution,
        "query": shown.query.index,
        "document": shown.document,
        "score": shown.score,
        "rank": shown.rank,
        "documents": shown.documents,
        "steps": shown.tokens.steps,
        "cut_tokens": shown.tokens.cut,
        **({"text": shown.pieces[0].text} if shown.tokens.whole else {}),
        "tokens": [_token_fact(shown, index, texts) for index in range(count)],
    }


def _token_fact(shown: ShownDocument, index: int, texts: dict[int, str]) -> dict[str, Any]:
    tokens = shown.tokens
    return {
        "row": int(tokens.rows[index]),
        "position": int(tokens.positions[index]),
        "id": int(tokens.ids[index]),
        # The tokens that share a character: the last of them carries the text.
        "text": texts.get(index, ""),
        "target": bool(tokens.targets[index]),
        "score": None if shown.scores is None else float(shown.scores[index]),
    }
