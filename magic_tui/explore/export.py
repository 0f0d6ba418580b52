"""Exporting an attribution's scores, for the command line and the dashboard alike."""

from pathlib import Path
from typing import Literal

from engine.runs.atomic import new_folder, refuse_used
from engine.scores.attribution import Attribution

Format = Literal["pt", "csv"]


def default_folder(attribution: Attribution, format: Format) -> str:
    """Where an export goes if nobody says: a folder's name."""
    return f"{attribution.run.id}-{attribution.id}-{format}"


def export_scores(attribution: Attribution, format: Format, out: Path) -> list[Path]:
    """Write the scores into a new folder: all of them, or nothing is left.

    Args:
        attribution: what to export.
        format: ``pt``: tensors and config; ``csv``: document scores.
        out: the folder; must not be there, or be empty.

    Returns:
        The files written.

    Raises:
        UsageError: if there is something in the folder.
        DiskFullError: if there is no room for them.
        WorkerError: if the tensors could not be written.
    """
    folder = free_folder(out)
    if format == "csv":
        with new_folder(folder) as staging:
            _write_csv(attribution, staging)
    else:
        _write_tensors(attribution, folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def free_folder(out: Path) -> Path:
    """Where to write, as a whole path.

    Raises:
        UsageError: if there is something in the folder.
    """
    folder = out.expanduser().absolute()
    refuse_used(folder)
    return folder


def _write_csv(attribution: Attribution, folder: Path) -> None:
    from engine.scores.texts import DocumentTexts
    from magic_tui.explore.export_csv import write_documents_csv

    scores = {
        f"score_{query}": attribution.scores.document_scores(query)
        for query in range(len(attribution.queries))
    }
    write_documents_csv(scores, DocumentTexts(attribution.run.documents_file), folder)


def _write_tensors(attribution: Attribution, folder: Path) -> None:
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
