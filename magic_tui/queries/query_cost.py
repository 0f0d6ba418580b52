"""The predicted cost of attributing more queries, from what the run measured and recorded."""

import statistics

from engine.cost.attribution_cost import AttributionCost, TimedPass, attribution_cost, read_costs
from engine.runs.atomic import size_on_disk
from engine.runs.run_folder import RunFolder
from engine.runs.run_history import read_history
from engine.runs.score_store import list_attributions, read_completion


def query_cost(run: RunFolder, queries: int) -> AttributionCost:
    """The cost of attributing ``queries`` more queries; unknown if the run recorded no costs.

    Raises:
        RunError: if a file of the run is missing or damaged.
    """
    prepared = run.prepared() if run.prepared_file.exists() else {}
    costs = read_costs(prepared)
    if costs is None:
        return AttributionCost(queries)
    timed = [
        TimedPass(
            len(each.queries), statistics.median(each.seconds), each.rebuild_seconds, each.memory
        )
        for each in read_history(run).passes
        if each.seconds
    ]
    return attribution_cost(costs, prepared["checkpointing"], queries, timed, _disk_per_query(run))


def _disk_per_query(run: RunFolder) -> int | None:
    """Bytes that a query's compressed scores took in the latest attribution."""
    for folder in reversed(list_attributions(run.attributions)):
        record = read_completion(folder)
        count = 0 if record is None else int(record["arrays"]["document_scores"]["shape"][0])
        if count:
            return size_on_disk(folder) // count
    return None
