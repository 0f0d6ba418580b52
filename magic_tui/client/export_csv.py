"""Document scores as a table that a spreadsheet opens without running anything."""

import csv
from pathlib import Path

from magic_tui.client.attribution import Attribution
from magic_tui.client.texts import DocumentTexts
from magic_tui.client.top import snippet

_AT_ONCE = 1000
"""Documents whose texts are held at a time."""
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_documents_csv(attribution: Attribution, folder: Path) -> Path:
    """Write ``documents.csv``: id, one score a query, the beginning of the text.

    Returns:
        The file's path.
    """
    queries = range(len(attribution.queries))
    scores = [attribution.scores.document_scores(query) for query in queries]
    count = len(scores[0])
    texts = DocumentTexts(attribution.run.documents_file)
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / "documents.csv", folder / ".documents.csv.part"
    with open(part, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *(f"score_{query}" for query in queries), "snippet"])
        for first in range(0, count, _AT_ONCE):
            documents = range(first, min(count, first + _AT_ONCE))
            for document, text in zip(documents, texts.texts(documents), strict=True):
                numbers = [str(column[document]) for column in scores]
                writer.writerow([document, *numbers, text_cell(snippet(text))])
    part.rename(path)
    return path


def text_cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return "'" + text if text.startswith(_FORMULA_STARTS) else text
