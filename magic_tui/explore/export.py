"""Export an attribution's scores to files, for the command line and the dashboard."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from engine.runs.atomic import new_folder, refuse_used
from engine.runs.score_store import Floats
from engine.scores.attribution import Attribution
from engine.scores.texts import DocumentTexts
from engine.scores.top import snippet

Format = Literal["pt", "csv"]
_BATCH = 1000
"""Documents whose texts are in memory at a time."""
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def default_folder(attribution: Attribution, format: Format) -> str:
    """Name of the folder that an export goes to by default."""
    return f"{attribution.run.id}-{attribution.id}-{format}"


def export_scores(attribution: Attribution, format: Format, out: Path) -> list[Path]:
    """Write the scores into a new folder; on failure nothing is left.

    Args:
        attribution: what to export.
        format: ``pt`` for tensors and config, ``csv`` for document scores.
        out: the folder; must be missing or empty.

    Returns:
        The files written.

    Raises:
        UsageError: if the folder is not empty.
        DiskFullError: if there is no room.
        WorkerError: if the tensors could not be written.
    """
    folder = free_folder(out)
    if format == "csv":
        queries = range(len(attribution.queries))
        scores = {f"score_{query}": attribution.scores.document_scores(query) for query in queries}
        with new_folder(folder) as staging:
            texts = DocumentTexts(attribution.run.documents_file)
            write_documents_csv(scores, texts, staging)
    else:
        _write_tensors(attribution, folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def free_folder(out: Path) -> Path:
    """The absolute path of an output folder.

    Raises:
        UsageError: if the folder is not empty.
    """
    folder = out.expanduser().absolute()
    refuse_used(folder)
    return folder


def write_documents_csv(columns: Mapping[str, Floats], texts: DocumentTexts, folder: Path) -> Path:
    """Write ``documents.csv``: id, the given columns, and the beginning of the text.

    Args:
        columns: by name, one number for each document, (document,).
        texts: the documents.
        folder: an existing folder.

    Returns:
        The file's path.
    """
    count = len(texts)
    path = folder / "documents.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *columns, "snippet"])
        for first in range(0, count, _BATCH):
            documents = range(first, min(count, first + _BATCH))
            for document, text in zip(documents, texts.texts(documents), strict=True):
                numbers = [str(column[document]) for column in columns.values()]
                writer.writerow([document, *numbers, text_cell(snippet(text))])
    return path


def text_cell(text: str) -> str:
    """A text that no spreadsheet evaluates as a formula."""
    return "'" + text if text.startswith(_FORMULA_STARTS) else text


def _write_tensors(attribution: Attribution, folder: Path) -> None:
    # Only a worker process loads torch.
    from magic_tui.client.worker import run_worker

    run_worker(
        [
            "export",
            *("--run", str(attribution.run.path)),
            *("--attribution", attribution.id),
            *("--out", str(folder)),
            *("--format", "pt"),
        ]
    )
