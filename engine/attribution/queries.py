"""The documents asked about, as measurements of a trained model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load as decode
from safetensors.numpy import save as encode

from engine.attribution.prepared_run import Job
from engine.attribution.query_texts import typed_documents
from engine.data.tokens import cut_sentence
from engine.replay.state import Batch, TrainState
from engine.runs.config import QueriesConfig, Reduction, RunConfig
from engine.runs.errors import RunError
from engine.runs.request import AttributionRequest
from engine.runs.tables import read_table, renamed, write_queries
from engine.tasks.task import QueryDocument
from engine.training.query_loss import QueryLoss

_OWN = ("id", "text", "measurement", "coefficient")
_TOKENS = ("input_ids", "targets", "cut_tokens", "text_end")
_ROW = ("inputs", "losses")
"""What only later attempts need: the row that the model is given, and its number of losses."""
_RESERVED = (*_OWN, *_TOKENS, *_ROW, "loss_before", "loss_after")


@dataclass(frozen=True)
class Query:
    """One document asked about: φ of its measurement has ``coefficient`` times its mean loss."""

    document: QueryDocument
    measurement: int
    coefficient: float


@dataclass(frozen=True)
class Queries:
    """All query documents of an attribution and how they combine."""

    items: list[Query]
    reduction: Reduction

    @property
    def measurements(self) -> int:
        """Length of the scores' query axis."""
        return 1 + max(query.measurement for query in self.items)

    @property
    def replayed(self) -> list[int]:
        """By measurement, the first one that equals it exactly, whose scores it shares."""
        sums: list[list[Any]] = [[] for _ in range(self.measurements)]
        for query in self.items:
            inputs = sorted(query.document.inputs.items())
            arrays = tuple((name, a.dtype.str, a.shape, a.tobytes()) for name, a in inputs)
            sums[query.measurement].append((arrays, query.document.losses, query.coefficient))
        first: dict[Any, int] = {}
        return [first.setdefault(tuple(sum_), place) for place, sum_ in enumerate(sums)]

    @property
    def cut_tokens(self) -> list[int]:
        """How many tokens of each document the model does not read."""
        return [query.document.tokens.get("cut_tokens") or 0 for query in self.items]

    def facts(self) -> dict[str, Any]:
        """What an attribution's record says of that."""
        cut = [tokens for tokens in self.cut_tokens if tokens]
        return {"cut": {"queries": len(cut), "tokens": sum(cut)}} if cut else {}

    def warnings(self, config: RunConfig) -> list[str]:
        """The same in a sentence; none if nothing is cut."""
        length = config.data.sequence_length
        sentence = cut_sentence(self.cut_tokens, length, "queries", "queries")
        return [] if sentence is None else [sentence]


def read_queries(config: QueriesConfig, job: Job) -> Queries:
    """The queries of a config, read and checked.

    Raises:
        UsageError: for whatever is wrong with them.
    """
    items = _items(job.task.read(config, "queries"), config.reduction, 1.0)
    if config.contrast is not None:
        contrast = job.task.read(config.contrast, "queries.contrast")
        items += _items(contrast, config.reduction, -1.0)
    return Queries(items, config.reduction)


def typed_queries(asked: AttributionRequest, job: Job) -> Queries:
    """Queries given as texts."""
    items = _items(job.task.read_texts(typed_documents(asked)), asked.reduction, 1.0)
    return Queries(items, asked.reduction)


def measurement_batches(queries: Queries, job: Job) -> list[QueryLoss]:
    """Each measurement as the batches whose losses add up to φ."""
    batches: list[list[Batch]] = [[] for _ in range(queries.measurements)]
    for query in queries.items:
        batches[query.measurement].append(_batch(query, job, query.coefficient))
    return list(batches)


@torch.no_grad()
def query_losses(queries: Queries, job: Job, state: TrainState) -> list[float]:
    """Every query document's mean loss at a train state."""
    with job.trainer.loss.evaluating():
        return [
            job.trainer.loss(state.params, _batch(query, job, 1.0), state.buffers).item()
            for query in queries.items
        ]


def write_asked(path: Path, queries: Queries) -> None:
    """Write queries durably as they are asked, so that a later attempt asks the same."""
    rows: dict[str, list[Any]] = {
        "inputs": [encode(query.document.inputs) for query in queries.items],
        "losses": [query.document.losses for query in queries.items],
    }
    write_queries(path, {**_table(queries), **rows})


def read_asked(path: Path, reduction: Reduction) -> Queries:
    """The queries that :func:`write_asked` wrote.

    Raises:
        RunError: if the file is damaged.
    """
    table = read_table(path).to_pydict()
    if not {*_OWN, *_ROW} <= set(table):
        raise RunError(f"{path} was written by another version of magic")
    own = {name: table.pop(name) for name in (*_OWN, *_ROW)}
    tokens = {name: table.pop(name) for name in _TOKENS if name in table}
    items = [
        Query(
            QueryDocument(
                text=own["text"][index],
                inputs=decode(own["inputs"][index]),
                losses=own["losses"][index],
                columns={name: values[index] for name, values in table.items()},
                tokens={name: values[index] for name, values in tokens.items()},
            ),
            own["measurement"][index],
            own["coefficient"][index],
        )
        for index in own["id"]
    ]
    return Queries(items, reduction)


def query_table(queries: Queries, before: list[float], after: list[float]) -> dict[str, list[Any]]:
    """The columns of ``queries.parquet``."""
    table = _table(queries)
    own = {name: table.pop(name) for name in (*_OWN, *_TOKENS) if name in table}
    losses = {"loss_before": before, "loss_after": after}
    last = {name: own.pop(name) for name in ("measurement", "coefficient")}
    return {**own, **losses, **last, **table}


def _table(queries: Queries) -> dict[str, list[Any]]:
    items = queries.items
    table: dict[str, list[Any]] = {
        "id": list(range(len(items))),
        "text": [query.document.text for query in items],
        **{n: [query.document.tokens[n] for query in items] for n in items[0].document.tokens},
        "measurement": [query.measurement for query in items],
        "coefficient": [query.coefficient for query in items],
    }
    for name in dict.fromkeys(name for query in items for name in query.document.columns):
        kept = renamed(name, (*table, *_RESERVED))
        table[kept] = [query.document.columns.get(name) for query in items]
    return table


def _items(documents: list[QueryDocument], reduction: Reduction, sign: float) -> list[Query]:
    share = sign / len(documents) if reduction == "mean" else sign
    return [
        Query(document, index if reduction == "none" else 0, share)
        for index, document in enumerate(documents)
    ]


def _batch(query: Query, job: Job, coefficient: float) -> Batch:
    columns = query.document.inputs.items()
    inputs = {name: torch.from_numpy(values)[None].to(job.device) for name, values in columns}
    weights = torch.full((1,), coefficient, dtype=job.trainer.dtype, device=job.device)
    return Batch(inputs, weights, query.document.losses)
