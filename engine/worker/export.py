"""Writing an attribution's scores as torch tensors."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.records.run_folder import RunFolder
from engine.records.score_store import ScoreReader, find_attribution
from engine.records.tables import RowTable


def export_tensors(folder: RunFolder, attribution: str, out: Path) -> dict[str, Any]:
    """Write ``scores.pt``, ``doc_ids.pt`` and ``run_config.yaml`` into ``out``.

    Scores are (rows, tokens), or (documents,) for granularity: document; with several queries
    they have a leading query axis. ``doc_ids`` (rows, tokens) holds -1 on padding replaced by
    document 0, whose score there is 0, so that ``scatter_add_`` over it gives document scores.
    """
    folder.config()
    reader = ScoreReader(find_attribution(folder.attributions, attribution))
    per_query = reader.token_scores if reader.has_tokens else reader.document_scores
    scores = torch.from_numpy(np.stack([per_query(query) for query in range(reader.queries)]))
    doc_ids = torch.from_numpy(RowTable(folder.rows_store).document_ids())
    out.mkdir(parents=True, exist_ok=True)
    torch.save(scores[0] if reader.queries == 1 else scores, out / "scores.pt")
    torch.save(doc_ids.clamp(min=0), out / "doc_ids.pt")
    shutil.copyfile(folder.config_file, out / "run_config.yaml")
    files = ["scores.pt", "doc_ids.pt", "run_config.yaml"]
    return {"run": folder.id, "attribution": attribution, "out": str(out), "files": files}
