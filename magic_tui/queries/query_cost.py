"""What asking a kept trajectory some queries would take, from what this run has measured."""

import contextlib
import statistics
from dataclasses import dataclass
from pathlib import Path

from engine.cost.passes import enough_together, is_sparing
from engine.runs.arrays import open_array
from engine.runs.atomic import size_on_disk
from engine.runs.config import RunConfig
from engine.runs.errors import RunError
from engine.runs.run_folder import RunFolder
from engine.runs.run_history import ReplayPass, RunHistory, read_history
from engine.runs.score_store import list_attributions, read_completion

FIRST_QUERY, NEXT_QUERY = 3.1, 2.3
"""Time of replaying a step in units of training it: for one query, and for each more."""
_STATE_TENSORS = {"adamw": 3, "adam": 3, "sgd": 2}
"""Parameter-sized tensors in a train state."""


@dataclass(frozen=True)
class QueryCost:
    """Estimates; None where the run has not measured what they would follow from."""

    queries: int
    steps: int
    seconds: float | None
    memory: int | None
    disk: int
    passes: int
    measured: bool
    """Whether a replay of this run was timed; else it follows from its training steps."""


def query_cost(run: RunFolder, queries: int) -> QueryCost:
    """What ``queries`` measurements more would take on a run.

    Raises:
        RunError: if a file of the run is missing or damaged.
        UsageError: if the config cannot be read.
    """
    history, config = read_history(run), run.config()
    steps = history.total_steps or len(history.step_seconds)
    replayed = [each for each in history.passes if each.seconds]
    at_once = _at_once(run, config, history, queries)
    passes = -(-queries // at_once)
    per_pass = -(-queries // passes)
    seconds = _step_seconds(history, replayed, per_pass)
    rebuild = _rebuild_seconds(history)
    total = None if seconds is None else passes * (steps * seconds + rebuild)
    disk = queries * _disk_per_query(run, config)
    memory = _memory(run, config, history, replayed, per_pass)
    return QueryCost(queries, steps, total, memory, disk, passes, bool(replayed))


def _at_once(run: RunFolder, config: RunConfig, history: RunHistory, queries: int) -> int:
    """Queries in one pass, judged by the passes of this run so far.

    All together, or where memory is spared as many as are enough. It was more than enough where
    the queries are small beside their graph, and fewer where no more fitted.
    """
    sparing, more, most = _spares_memory(run, config), 1, queries
    for attribution in {each.attribution for each in history.passes} - {None}:
        assert attribution is not None
        sizes = [len(each.queries) for each in history.passes_of(attribution)]
        wanted = enough_together(config, sum(sizes)) if sparing else sum(sizes)
        if max(sizes) > wanted:
            more = max(more, *sizes)
        elif max(sizes) < wanted:
            most = min(most, max(sizes))
    enough = enough_together(config, queries) if sparing else queries
    return max(1, min(most, max(enough, more)))


def _spares_memory(run: RunFolder, config: RunConfig) -> bool:
    with contextlib.suppress(RunError):
        prepared = run.prepared()
        return is_sparing(config, prepared["checkpointing"], prepared["device"])
    return False


def _step_seconds(history: RunHistory, replayed: list[ReplayPass], queries: int) -> float | None:
    if replayed:
        latest = replayed[-1]
        took = statistics.median(latest.seconds)
        return took * _units(queries) / _units(len(latest.queries))
    if history.step_seconds:
        return statistics.median(history.step_seconds) * _units(queries)
    return None


def _units(queries: int) -> float:
    return FIRST_QUERY + NEXT_QUERY * (max(1, queries) - 1)


def _rebuild_seconds(history: RunHistory) -> float:
    """Seconds of rebuilding states in the slowest pass."""
    return max((each.rebuild_seconds for each in history.passes), default=0.0)


def _memory(
    run: RunFolder,
    config: RunConfig,
    history: RunHistory,
    replayed: list[ReplayPass],
    queries: int,
) -> int | None:
    if not replayed or not history.state_bytes:
        return None
    most = max(replayed, key=lambda each: each.memory)
    return max(0, most.memory + (queries - len(most.queries)) * _per_query(run, config, history))


def _per_query(run: RunFolder, config: RunConfig, history: RunHistory) -> int:
    """A cotangent as large as a train state, the scores, and a direction if all are held."""
    held, training = history.state_bytes, config.training
    rows = training.micro_batch_size
    if rows == "auto":
        rows = run.prepared().get("micro_batch_size")
    if training.activation_checkpointing or (rows is not None and rows < training.batch_size):
        held += history.state_bytes // _STATE_TENSORS[training.optimizer.name]
    return held + _scores_bytes(run, config)


def _scores_bytes(run: RunFolder, config: RunConfig) -> int:
    shape = open_array(run.rows_store, "document_ids").shape
    size = 8 if config.model.dtype == "float64" else 4
    return int(shape[0]) * int(shape[1]) * size


def _disk_per_query(run: RunFolder, config: RunConfig) -> int:
    """As much as a query's scores took before, compressed; else their plain size."""
    for folder in reversed(list_attributions(run.attributions)):
        count = _queries_of(folder)
        if count:
            return size_on_disk(folder) // count
    return _scores_bytes(run, config)


def _queries_of(folder: Path) -> int:
    record = read_completion(folder)
    return 0 if record is None else int(record["arrays"]["document_scores"]["shape"][0])
