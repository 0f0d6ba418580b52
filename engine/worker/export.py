"""Export of an attribution's scores as torch tensors."""

import shutil
from pathlib import Path
from typing import Any

import torch

from engine.runs.atomic import new_folder
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreReader, find_attribution
from engine.runs.tables import RowTable

_TOKENS = """\
query-N/scores.pt  (tokens,) float        score of every training token, row by row
doc_ids.pt         (tokens,) int64        document of each of these tokens; without padding
layout.pt          (rows, length) int64   document at every position, -1 on padding
"""
_DOCUMENTS = """\
query-N/scores.pt  (documents,) float     score of every training document
doc_ids.pt         (documents,) int64     document of each of these scores
"""
_ROWS = """\

Token scores in the shape of the rows, 0 on padding:

    layout = torch.load("layout.pt")
    grid = torch.zeros(layout.shape, dtype=scores.dtype)
    grid[layout >= 0] = scores
"""
_README = """\
Scores of attribution {attribution} of run {run}.
Queries: {queries}, numbered from 0. Training documents: {documents}.
A negative score is helpful: more weight on the document lowers the query's loss.

{shapes}run_config.yaml                           config of the run

Document scores of a query:

    import torch

    doc_ids = torch.load("doc_ids.pt")
    scores = torch.load("query-0/scores.pt")
    per_doc = torch.zeros({documents}, dtype=scores.dtype)
    per_doc.scatter_add_(0, doc_ids.flatten(), scores.flatten())
{rows}"""


def export_tensors(folder: RunFolder, attribution: str, out: Path) -> dict[str, Any]:
    """Write ``query-N/scores.pt`` for each query, ``doc_ids.pt`` and ``README.txt``.

    Scores and ``doc_ids`` are (tokens,) without padding, or (documents,) with granularity:
    document; ``per_doc.scatter_add_(0, doc_ids.flatten(), scores.flatten())`` sums the first to
    document scores.

    Args:
        folder: the run.
        attribution: id of the attribution.
        out: the folder; must be missing or empty.

    Raises:
        DiskFullError: if there is no room; no file is left then.
    """
    folder.config()
    reader = ScoreReader(find_attribution(folder.attributions, attribution))
    documents = len(reader.document_scores(0))
    with new_folder(out) as staging:
        is_token = None
        if reader.has_tokens:
            layout = torch.from_numpy(RowTable(folder.rows_store).document_ids())
            is_token = layout >= 0
            _save(layout, staging / "layout.pt")
            _save(layout[is_token], staging / "doc_ids.pt")
        else:
            _save(torch.arange(documents), staging / "doc_ids.pt")
        for query in range(reader.queries):
            (staging / f"query-{query}").mkdir()
            if is_token is None:
                scores = torch.from_numpy(reader.document_scores(query))
            else:
                scores = torch.from_numpy(reader.token_scores(query))[is_token]
            _save(scores, staging / f"query-{query}" / "scores.pt")
        shutil.copyfile(folder.config_file, staging / "run_config.yaml")
        text = _README.format(
            attribution=attribution,
            run=folder.id,
            queries=reader.queries,
            documents=documents,
            shapes=_DOCUMENTS if is_token is None else _TOKENS,
            rows="" if is_token is None else _ROWS,
        )
        (staging / "README.txt").write_text(text, encoding="utf-8")
    return {"run": folder.id, "attribution": attribution, "out": str(out)}


def _save(tensor: torch.Tensor, path: Path) -> None:
    """``torch.save`` that raises the system's error, such as ENOSPC, if writing fails."""
    with open(path, "wb") as file:
        recording: Any = _RecordingFile(file)
        try:
            torch.save(tensor, recording)
        except RuntimeError:
            if recording.error is None:
                raise
            raise recording.error from None


class _RecordingFile:
    """A file that records the system's error of a write, which torch replaces by its own."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return int(self._file.write(data))
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()
