"""Document scores as a table that a spreadsheet opens without running anything."""

import csv
from collections.abc import Mapping
from pathlib import Path

from engine.runs.score_store import Floats
from engine.scores.texts import DocumentTexts
from engine.scores.top import snippet

_AT_ONCE = 1000
"""Documents whose texts are held at a time."""
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_documents_csv(columns: Mapping[str, Floats], texts: DocumentTexts, folder: Path) -> Path:
    """Write ``documents.csv``: id, columns of one number a document, the beginning of its text.

    ``folder`` is one that appears once all is written.

    Returns:
        The file's path.
    """
    count = len(texts)
    path = folder / "documents.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *columns, "snippet"])
        for first in range(0, count, _AT_ONCE):
            documents = range(first, min(count, first + _AT_ONCE))
            for document, text in zip(documents, texts.texts(documents), strict=True):
                numbers = [str(column[document]) for column in columns.values()]
                writer.writerow([document, *numbers, text_cell(snippet(text))])
    return path


def text_cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return "'" + text if text.startswith(_FORMULA_STARTS) else text
