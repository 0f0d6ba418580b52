"""What a run recorded beside its scores: of its derivatives, and directions replayed.

Loads nothing slow.
"""

import contextlib
from pathlib import Path
from typing import Any

from engine.runs.checksummed import read_record
from engine.runs.errors import RunError
from engine.runs.run_folder import RunFolder


def subspaces_of(run: Path) -> dict[str, dict[str, Any]]:
    """What the attributions of the run in a folder say of the directions they replayed.

    By attribution, those alone that were asked with a tolerance: ``tolerance``, ``rank``,
    ``inner_product``, ``outside`` and how many ``queries``. Damaged records are passed over:
    whatever reads the scores themselves says so.
    """
    found = {}
    for file in sorted(run.glob("attributions/[!.]*/complete.json")):
        with contextlib.suppress(RunError, OSError, KeyError, TypeError):
            record = read_record(file) or {}
            queries = record["arrays"]["document_scores"]["shape"][0]
            found[file.parent.name] = {**record["subspace"], "queries": queries}
    return found


def derivative_of(run: Path) -> dict[str, Any] | None:
    """What the comparison with finite differences gave when the run in a folder was prepared."""
    with contextlib.suppress(RunError, OSError):
        found: dict[str, Any] | None = RunFolder(run).prepared().get("derivative")
        return found
    return None
