"""One training document as the model saw it: its tokens, and their scores for one query."""

import functools
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.runs.arrays import rows_per_chunk
from engine.runs.checksummed import ChangedError, verify
from engine.runs.errors import UsageError
from engine.runs.run_folder import RunFolder
from engine.runs.safe_open import check_regular
from engine.runs.tables import RowTable
from engine.scores.attribution import Attribution, Query
from engine.scores.texts import CUT_MARK, DocumentTexts

_REPLACEMENT = "\ufffd"
_LONGEST_CHARACTER = 4
"""Bytes of a UTF-8 character. A piece of more tokens that is still invalid stays invalid."""


@dataclass(frozen=True)
class DocumentTokens:
    """A document's tokens in the order of its text; all arrays are (token,).

    A document without tokens, such as an image, counts as one token.
    """

    rows: NDArray[np.int64]
    positions: NDArray[np.int64]
    ids: NDArray[np.int64]
    targets: NDArray[np.bool_]
    """Whether a loss is taken at the position."""
    steps: list[int]
    """Training steps that used the document, over all epochs."""
    whole: bool = False
    """Whether the document has no tokens."""
    cut: int = 0
    """Further tokens of the document that the model does not read."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The text of tokens ``start`` to ``stop``: one token, or all that share a character."""

    text: str
    start: int
    stop: int


DocumentParts = tuple[DocumentTokens, list[Piece]]


@dataclass(frozen=True)
class DocumentScores:
    """A document's tokens with their scores for one query, and its rank among all documents."""

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
    """Scores (token,); None if only document scores were stored."""

    @cached_property
    def piece_scores(self) -> NDArray[np.float64]:
        """Sum of the token scores of each piece; zeros if there are no token scores."""
        if self.scores is None or not self.pieces:
            return np.zeros(len(self.pieces))
        return np.add.reduceat(self.scores, self._starts).astype(np.float64)

    @cached_property
    def marked_pieces(self) -> list[Piece]:
        """The pieces, with a mark after the last one if the document is cut there."""
        if not self.tokens.cut or not self.pieces:
            return self.pieces
        last = self.pieces[-1]
        return [*self.pieces[:-1], replace(last, text=last.text + CUT_MARK)]

    @cached_property
    def learned(self) -> NDArray[np.bool_]:
        """Whether a loss is taken at any token of each piece."""
        if not self.pieces:
            return np.zeros(0, np.bool_)
        return np.logical_or.reduceat(self.tokens.targets, self._starts)

    @cached_property
    def strongest(self) -> float:
        """The largest |score| of a piece, the scale of the colours."""
        return float(np.abs(self.piece_scores).max(initial=0.0))

    @cached_property
    def _starts(self) -> list[int]:
        return [piece.start for piece in self.pieces]

    def strongest_pieces(self, count: int) -> list[int]:
        """Indices of the pieces of largest |score|, strongest first, zeros excluded."""
        sizes = np.abs(self.piece_scores)
        order = np.argsort(-sizes, kind="stable")[:count]
        return [int(index) for index in order if sizes[index] > 0]


def read_document_scores(
    attribution: Attribution, query: int, document: int, parts: DocumentParts | None = None
) -> DocumentScores:
    """Read a document's tokens and their scores.

    Args:
        attribution: the scores.
        query: index of the query.
        document: id of the document.
        parts: the document's tokens and pieces, if they were read already.

    Raises:
        UsageError: if there is no such query or document.
    """
    measurement = attribution.query(query)
    scores = attribution.document_scores(query)
    check_document(attribution, document)
    tokens, pieces = parts or read_parts(attribution, document)
    return DocumentScores(
        attribution.run.id,
        attribution.id,
        measurement,
        len(attribution.queries),
        document,
        len(scores),
        float(scores[document]),
        attribution.rank(query, document),
        tokens,
        pieces,
        token_scores(attribution, query, tokens),
    )


def check_document(attribution: Attribution, document: int) -> None:
    """Check that a run has a document.

    Raises:
        UsageError: if it has none of this id.
    """
    count = len(attribution.document_scores(0))
    if not 0 <= document < count:
        raise UsageError(
            f"run {attribution.run.id} has no document {document}; there are 0 to {count - 1}"
        )


def document_facts(scores: DocumentScores) -> dict[str, Any]:
    """A document's tokens and scores as JSON-ready values."""
    tokens = scores.tokens
    texts = token_texts(scores.tokens, scores.pieces)
    return {
        "run": scores.run,
        "attribution": scores.attribution,
        "query": scores.query.index,
        "document": scores.document,
        "score": scores.score,
        "rank": scores.rank,
        "documents": scores.documents,
        "steps": tokens.steps,
        "cut_tokens": tokens.cut,
        **({"text": scores.pieces[0].text} if tokens.whole else {}),
        "tokens": [
            {
                "row": int(tokens.rows[index]),
                "position": int(tokens.positions[index]),
                "id": int(tokens.ids[index]),
                "text": text,
                "target": bool(tokens.targets[index]),
                "score": None if scores.scores is None else float(scores.scores[index]),
            }
            for index, text in enumerate(() if tokens.whole else texts)
        ],
    }


def token_texts(tokens: DocumentTokens, pieces: list[Piece]) -> list[str]:
    """The text of each token. Of tokens that share a character, the last one has the text."""
    texts = {piece.stop - 1: piece.text for piece in pieces}
    return [texts.get(index, "") for index in range(len(tokens.ids))]


def read_parts(
    attribution: Attribution,
    document: int,
    table: RowTable | None = None,
    texts: DocumentTexts | None = None,
) -> DocumentParts:
    """A document's tokens and their texts, which are the same for every query.

    Args:
        attribution: an attribution of the run.
        document: id of the document.
        table: the run's rows, if they are open already.
        texts: the run's texts, if they are open already.

    Raises:
        UsageError: if no row contains the document.
    """
    tokens = read_document(attribution.run, document, table)
    texts = texts or DocumentTexts(attribution.run.documents_file)
    if tokens.whole:
        return tokens, [Piece(texts.texts([document])[0], 0, 1)]
    tokens = replace(tokens, cut=texts.cut_tokens(document))
    return tokens, decode_pieces(attribution.run.tokenizer_file, tokens.ids)


def read_document(run: RunFolder, document: int, table: RowTable | None = None) -> DocumentTokens:
    """Find a document's tokens in the rows of a run.

    Args:
        run: the run.
        document: id of the document.
        table: the run's rows, if they are open already.

    Raises:
        UsageError: if no row contains the document.
    """
    table = table or RowTable(run.rows_store)
    rows, positions = _find(table, document)
    if not len(rows):
        raise UsageError(
            f"no row of run {run.id} contains document {document}; see the ids in: magic top"
        )
    first, last = int(rows.min()), int(rows.max()) + 1
    block = slice(first, last)
    here = (rows - first, positions)
    steps = np.unique(table.steps(block)[np.unique(rows) - first])
    return DocumentTokens(
        rows,
        positions,
        table.input_ids(block)[here].astype(np.int64)
        if table.has_tokens
        else np.zeros(len(rows), np.int64),
        table.targets(block)[here],
        [int(step) for step in steps if step >= 0],
        not table.has_tokens,
    )


def token_scores(attribution: Attribution, query: int, tokens: DocumentTokens) -> Any:
    """Scores (token,) of a document's tokens for a query; None if only document scores exist."""
    if not attribution.scores.has_tokens:
        return None
    first, last = int(tokens.rows.min()), int(tokens.rows.max()) + 1
    block = attribution.scores.token_scores(query, slice(first, last))
    return block[tokens.rows - first, tokens.positions]


def decode_pieces(tokenizer_file: Path, ids: NDArray[np.int64]) -> list[Piece]:
    """The text that each token adds. Tokens that share a character make one piece.

    Without a readable tokenizer the text is the token's id: ``⟨123⟩``.

    Raises:
        ChangedError: if the tokenizer was changed after the run stored it.
    """
    tokenizer = _read_tokenizer(tokenizer_file)
    if tokenizer is None:
        return [Piece(_id_text(token), i, i + 1) for i, token in enumerate(ids.tolist())]
    pieces: list[Piece] = []
    # A decoder depends on the preceding tokens: some drop a leading space. Each piece is decoded
    # together with the one before it, whose text is then removed.
    before, start = 0, 0
    for end in range(1, len(ids) + 1):
        previous, text = (
            tokenizer.decode(ids[before:until].tolist(), skip_special_tokens=False)
            for until in (start, end)
        )
        unfinished = text.endswith(_REPLACEMENT) and end - start < _LONGEST_CHARACTER
        if unfinished and end < len(ids):
            continue
        known = tokenizer.id_to_token(int(ids[end - 1])) is not None
        pieces.append(Piece(text[len(previous) :] if known else _id_text(ids[end - 1]), start, end))
        before, start = start, end
    return pieces


def _id_text(token: int) -> str:
    return f"⟨{token}⟩"


def _read_tokenizer(path: Path) -> Any:
    try:
        return _tokenizer(check_regular(path), path.stat().st_mtime_ns)
    except ChangedError:
        raise
    except Exception:
        # The library raises a bare Exception for a missing or damaged file.
        return None


@functools.lru_cache(maxsize=2)
def _tokenizer(path: Path, changed: int) -> Any:
    from tokenizers import Tokenizer

    verify(path)
    return Tokenizer.from_file(str(path))


def _find(table: RowTable, document: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and positions (token,) of a document.

    Rows contain the documents in order, so a binary search finds the row. It starts at the row of
    the document's own number, which is the right one if each document has a row.
    """
    count = table.rows
    low, high, probe = 0, count, min(document, count - 1)
    while low < high:
        owners = table.document_ids(slice(probe, probe + 1))[0]
        owners = owners[owners >= 0]
        if len(owners) and owners[0] <= document <= owners[-1]:
            break
        if len(owners) and owners[-1] < document:
            low = probe + 1
        else:
            high = probe
        probe = (low + high) // 2
    else:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    # Reading a row decodes its whole chunk, so the search continues by chunks.
    block = rows_per_chunk(8 * table.tokens)
    first, last = probe // block * block, min(count, (probe // block + 1) * block)
    while first > 0 and _contains(table, first, document):
        first -= block
    while last < count and _contains(table, last - 1, document):
        last = min(count, last + block)
    rows, positions = np.nonzero(table.document_ids(slice(first, last)) == document)
    return rows + first, positions


def _contains(table: RowTable, row: int, document: int) -> bool:
    return bool((table.document_ids(slice(row, row + 1)) == document).any())
