"""One training document as the model saw it: its tokens, where they stand and their scores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.contract.errors import UsageError
from engine.records.arrays import rows_per_chunk
from engine.records.run_folder import RunFolder
from engine.records.tables import RowTable
from magic_tui.client.attribution import Attribution

_REPLACEMENT = "\ufffd"
_LONGEST_CHARACTER = 4
"""Bytes of a UTF-8 character: after this many tokens a piece will not become valid any more."""


@dataclass(frozen=True)
class DocumentTokens:
    """A document's tokens in the order of its text; all arrays are (token,)."""

    rows: NDArray[np.int64]
    positions: NDArray[np.int64]
    ids: NDArray[np.int64]
    targets: NDArray[np.bool_]
    steps: list[int]
    """Steps that trained on it, over all epochs."""


@dataclass(frozen=True)
class Piece:
    """The text of the tokens from ``start`` up to ``stop``: one, or all that share a character."""

    text: str
    start: int
    stop: int


def read_document(run: RunFolder, document: int) -> DocumentTokens:
    """Find a document's tokens in the rows of a run.

    Raises:
        UsageError: if no row holds it.
    """
    table = RowTable(run.rows_store)
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
        table.input_ids(block)[here].astype(np.int64),
        table.targets(block)[here],
        [int(step) for step in steps if step >= 0],
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
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception:
        # The library raises bare Exception for a missing or damaged file.
        return None


def _find(table: RowTable, document: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    found: list[tuple[Any, Any]] = []
    start, block = 0, 1
    while True:
        ids = table.document_ids(slice(start, start + block))
        if not len(ids):
            break
        rows, positions = np.nonzero(ids == document)
        found.append((rows + start, positions))
        start += len(ids)
        block = rows_per_chunk(ids.shape[1] * ids.dtype.itemsize)
    return (
        np.concatenate([rows for rows, _ in found] or [np.zeros(0, np.int64)]),
        np.concatenate([positions for _, positions in found] or [np.zeros(0, np.int64)]),
    )
