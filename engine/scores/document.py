"""One training document as the model saw it: its tokens, where they stand and their scores."""

import functools
from dataclasses import dataclass
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
from engine.scores.attribution import Attribution

_REPLACEMENT = "\ufffd"
_LONGEST_CHARACTER = 4
"""Bytes of a UTF-8 character: after this many tokens a piece will not become valid any more."""


@dataclass(frozen=True)
class DocumentTokens:
    """A document's tokens in the order of its text; all arrays are (token,).

    A document without tokens, such as an image, counts as one.
    """

    rows: NDArray[np.int64]
    positions: NDArray[np.int64]
    ids: NDArray[np.int64]
    targets: NDArray[np.bool_]
    steps: list[int]
    """Steps that trained on it, over all epochs."""
    whole: bool = False
    """Whether it has no tokens."""
    cut: int = 0
    """How many tokens more the document has, which the model does not read."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The text of the tokens from ``start`` up to ``stop``: one, or all that share a character."""

    text: str
    start: int
    stop: int


def read_document(run: RunFolder, document: int, table: RowTable | None = None) -> DocumentTokens:
    """Find a document's tokens in the rows of a run, in ``table`` if that is open already.

    Raises:
        UsageError: if no row holds it.
    """
    table = table or RowTable(run.rows_store)
    rows, positions = _find(table, document)
    if not len(rows):
        raise UsageError(
            f"no row of run {run.id} holds document {document}; see the ids in: magic top"
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
    """Scores (token,) of a document's tokens, or None if only documents' scores were kept."""
    if not attribution.scores.has_tokens:
        return None
    first, last = int(tokens.rows.min()), int(tokens.rows.max()) + 1
    block = attribution.scores.token_scores(query, slice(first, last))
    return block[tokens.rows - first, tokens.positions]


def decode_pieces(tokenizer_file: Path, ids: NDArray[np.int64]) -> list[Piece]:
    """The text each token adds. Tokens that share one character make one piece.

    Without a readable tokenizer the ids themselves are shown: ``⟨123⟩``.

    Raises:
        ChangedError: if the tokenizer is not the one that the run stored.
    """
    tokenizer = _read_tokenizer(tokenizer_file)
    if tokenizer is None:
        return [Piece(_sign(token), i, i + 1) for i, token in enumerate(ids.tolist())]
    pieces: list[Piece] = []
    # Decoders look at what stands before (a leading space is dropped), so every piece is
    # decoded behind the one before it and what that one showed is cut off again.
    before, start = 0, 0
    for end in range(1, len(ids) + 1):
        shown, text = (
            tokenizer.decode(ids[before:until].tolist(), skip_special_tokens=False)
            for until in (start, end)
        )
        unfinished = text.endswith(_REPLACEMENT) and end - start < _LONGEST_CHARACTER
        if unfinished and end < len(ids):
            continue
        known = tokenizer.id_to_token(int(ids[end - 1])) is not None
        pieces.append(Piece(text[len(shown) :] if known else _sign(ids[end - 1]), start, end))
        before, start = start, end
    return pieces


def _sign(token: int) -> str:
    return f"⟨{token}⟩"


def _read_tokenizer(path: Path) -> Any:
    try:
        return _tokenizer(check_regular(path), path.stat().st_mtime_ns)
    except ChangedError:
        raise
    except Exception:
        # The library raises bare Exception for a missing or damaged file.
        return None


@functools.lru_cache(maxsize=2)
def _tokenizer(path: Path, changed: int) -> Any:
    from tokenizers import Tokenizer

    verify(path)
    return Tokenizer.from_file(str(path))


def _find(table: RowTable, document: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and positions (token,) of a document.

    Rows hold the documents in their order, so the row is found by halving; where each document
    has a row of its own, it is the first that is looked at.
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
    # Reading a row decodes its whole chunk, so chunks are what the search goes on by.
    block = rows_per_chunk(8 * table.tokens)
    first, last = probe // block * block, min(count, (probe // block + 1) * block)
    while first > 0 and _holds(table, first, document):
        first -= block
    while last < count and _holds(table, last - 1, document):
        last = min(count, last + block)
    rows, positions = np.nonzero(table.document_ids(slice(first, last)) == document)
    return rows + first, positions


def _holds(table: RowTable, row: int, document: int) -> bool:
    return bool((table.document_ids(slice(row, row + 1)) == document).any())
