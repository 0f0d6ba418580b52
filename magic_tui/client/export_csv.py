"""Document scores as a table that a spreadsheet opens without running anything."""

import csv
from pathlib import Path

from magic_tui.client.attribution import Attribution, document_texts
from magic_tui.client.top import snippet

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_documents_csv(attribution: Attribution, folder: Path) -> Path:
    """Write ``documents.csv``: id, one score a query, the beginning of the text.

    Returns:
        The file's path.
    """
    queries = range(len(attribution.queries))
    scores = [attribution.document_scores(query) for query in queries]
    count = len(scores[0])
    texts = document_texts(attribution.run, range(count))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "documents.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *(f"score_{query}" for query in queries), "snippet"])
        for document in range(count):
            numbers = [str(column[document]) for column in scores]
            writer.writerow([document, *numbers, text_cell(snippet(texts[document]))])
    return path


def text_cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return "'" + text if text.startswith(_FORMULA_STARTS) else text
