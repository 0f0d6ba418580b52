"""Which attributions replayed fewer directions than they have queries."""

from typing import Any

from engine.records.run_folder import RunFolder
from engine.records.score_store import list_attributions, read_completion


def subspaces_of(run: RunFolder) -> dict[str, dict[str, Any]]:
    """What a run's attributions say of the directions that served in place of their queries.

    By attribution, those alone that were asked with a tolerance: ``tolerance``, ``rank``,
    ``inner_product``, ``outside`` and how many ``queries``.

    Raises:
        UsageError: if a completion record is damaged.
    """
    records = {
        folder.name: read_completion(folder) for folder in list_attributions(run.attributions)
    }
    return {
        name: {**record["subspace"], "queries": record["arrays"]["document_scores"]["shape"][0]}
        for name, record in records.items()
        if record is not None and record.get("subspace")
    }
