"""Which attributions replayed fewer directions than they have queries; loads nothing slow."""

import contextlib
from pathlib import Path
from typing import Any

from engine.contract.errors import RunError
from engine.records.checked import read_record


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
