"""Queries of a run: read, stored, and turned into measurements of a trained model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load as decode
from safetensors.numpy import save as encode

from engine.attribution.prepared_run import PreparedRun
from engine.attribution.query_texts import typed_documents
from engine.data.tokens import cut_sentence
from engine.replay.state import Batch, TrainState
from engine.runs.config import Granularity, QueriesConfig, Reduction, RunConfig
from engine.runs.errors import RunError
from engine.runs.request import Request
from engine.runs.run_folder import RunFolder
from engine.runs.tables import read_table, renamed, write_queries
from engine.tasks.task import QueryDocument
from engine.training.query_loss import QueryLoss

STORED_QUERIES = "stored_queries.parquet"
"""In an attribution's folder: its queries as the model reads them."""
_OWN = ("id", "text", "measurement", "coefficient")
_TOKENS = ("input_ids", "targets", "cut_tokens", "text_end")
_ROW = ("inputs", "losses")
"""Columns of the stored queries only: the row that the model reads, and its number of losses."""
_RESERVED = (*_OWN, *_TOKENS, *_ROW, "loss_before", "loss_after")


@dataclass(frozen=True)
class Query:
    """One query document, which adds ``coefficient`` times its mean loss to a measurement φ."""

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
        """The length of the scores' query axis."""
        return 1 + max(query.measurement for query in self.items)

    @property
    def replayed(self) -> list[int]:
        """By measurement, the first one that equals it exactly; only those are replayed."""
        sums: list[list[Any]] = [[] for _ in range(self.measurements)]
        for query in self.items:
            inputs = sorted(query.document.inputs.items())
            arrays = tuple((name, a.dtype.str, a.shape, a.tobytes()) for name, a in inputs)
            sums[query.measurement].append((arrays, query.document.losses, query.coefficient))
        first: dict[Any, int] = {}
        return [first.setdefault(tuple(terms), place) for place, terms in enumerate(sums)]

    @property
    def cut_tokens(self) -> list[int]:
        """By document, how many of its tokens lie beyond ``data.sequence_length``."""
        return [query.document.tokens.get("cut_tokens") or 0 for query in self.items]

    def facts(self) -> dict[str, Any]:
        """Facts of the completion record: ``cut``, if any document is cut."""
        cut = [tokens for tokens in self.cut_tokens if tokens]
        return {"cut": {"queries": len(cut), "tokens": sum(cut)}} if cut else {}

    def warnings(self, config: RunConfig) -> list[str]:
        """A sentence if any document is cut."""
        length = config.data.sequence_length
        sentence = cut_sentence(self.cut_tokens, length, "queries", "queries")
        return [] if sentence is None else [sentence]


@dataclass(frozen=True)
class QueryRequest:
    """Queries of a run, and the staging folder of their scores."""

    folder: RunFolder
    staging: Path
    """``attributions/.ID.new``; renamed to ``ID`` when it is complete."""
    queries: Queries
    granularity: Granularity

    @property
    def identifier(self) -> str:
        """The attribution's id."""
        return self.staging.name.removeprefix(".").removesuffix(".new")


def staging_folder(folder: RunFolder, request: Request) -> Path:
    """The folder of an attribution that is not complete yet."""
    return folder.attributions / f".{request.attribution}.new"


def query_request(folder: RunFolder, request: Request, prepared: PreparedRun) -> QueryRequest:
    """The query request of a job.

    Its queries are those that an earlier attempt stored; otherwise they are read and stored now.

    Raises:
        UsageError: for any fault in the queries.
    """
    if not has_stored_queries(folder, request):
        store_queries(folder, request, _read(request, prepared))
    reduction: Reduction = "none"
    config = prepared.config
    granularity = config.attribution.granularity
    if request.attribution_request is not None:
        granularity = request.attribution_request.granularity or granularity
        reduction = request.attribution_request.reduction
    elif config.queries is not None:
        reduction = config.queries.reduction
    if not config.has_tokens:
        granularity = "document"
    staging = staging_folder(folder, request)
    queries = read_stored_queries(staging / STORED_QUERIES, reduction)
    return QueryRequest(folder, staging, queries, granularity)


def read_queries(config: QueriesConfig, prepared: PreparedRun) -> Queries:
    """The queries of a config, read and checked.

    Raises:
        UsageError: for any fault in them.
    """
    items = _items(prepared.task.read(config, "queries"), config.reduction, 1.0)
    if config.contrast is not None:
        contrast = prepared.task.read(config.contrast, "queries.contrast")
        items += _items(contrast, config.reduction, -1.0)
    return Queries(items, config.reduction)


def store_queries(folder: RunFolder, request: Request, queries: Queries) -> None:
    """Store queries durably before any computation, so that every attempt uses the same."""
    staging = staging_folder(folder, request)
    staging.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[Any]] = {
        "inputs": [encode(query.document.inputs) for query in queries.items],
        "losses": [query.document.losses for query in queries.items],
    }
    write_queries(staging / STORED_QUERIES, {**_table(queries), **rows})


def has_stored_queries(folder: RunFolder, request: Request) -> bool:
    """Whether an earlier attempt stored readable queries."""
    file = staging_folder(folder, request) / STORED_QUERIES
    if not file.exists():
        return False
    try:
        read_stored_queries(file, "none")
    except RunError:
        return False
    return True


def read_stored_queries(path: Path, reduction: Reduction) -> Queries:
    """The queries that :func:`store_queries` wrote.

    Raises:
        RunError: if the file is damaged.
    """
    table = read_table(path).to_pydict()
    if missing := {*_OWN, *_ROW} - set(table):
        raise RunError(f"{path} is damaged (no column {min(missing)}); restore it from a backup")
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


def measurement_batches(queries: Queries, prepared: PreparedRun) -> list[QueryLoss]:
    """By measurement, the batches whose losses sum to φ."""
    batches: list[list[Batch]] = [[] for _ in range(queries.measurements)]
    for query in queries.items:
        batches[query.measurement].append(_batch(query, prepared, query.coefficient))
    return list(batches)


@torch.no_grad()
def query_losses(queries: Queries, prepared: PreparedRun, state: TrainState) -> list[float]:
    """Every query document's mean loss at a train state."""
    loss = prepared.trainer.loss
    with loss.evaluating():
        return [
            loss(state.params, _batch(query, prepared, 1.0), state.buffers).item()
            for query in queries.items
        ]


def query_table(queries: Queries, before: list[float], after: list[float]) -> dict[str, list[Any]]:
    """The columns of ``queries.parquet``."""
    table = _table(queries)
    own = {name: table.pop(name) for name in (*_OWN, *_TOKENS) if name in table}
    losses = {"loss_before": before, "loss_after": after}
    last = {name: own.pop(name) for name in ("measurement", "coefficient")}
    return {**own, **losses, **last, **table}


def _read(request: Request, prepared: PreparedRun) -> Queries:
    queries = request.attribution_request
    if queries is None:
        assert prepared.config.queries is not None
        return read_queries(prepared.config.queries, prepared)
    if queries.texts is not None:
        documents = prepared.task.read_texts(typed_documents(queries))
        return Queries(_items(documents, queries.reduction, 1.0), queries.reduction)
    assert queries.queries is not None
    source = {**queries.queries.model_dump(), "reduction": queries.reduction}
    return read_queries(QueriesConfig.model_validate(source), prepared)


def _items(documents: list[QueryDocument], reduction: Reduction, sign: float) -> list[Query]:
    coefficient = sign / len(documents) if reduction == "mean" else sign
    return [
        Query(document, index if reduction == "none" else 0, coefficient)
        for index, document in enumerate(documents)
    ]


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
        column = renamed(name, (*table, *_RESERVED))
        table[column] = [query.document.columns.get(name) for query in items]
    return table


def _batch(query: Query, prepared: PreparedRun, coefficient: float) -> Batch:
    columns = query.document.inputs.items()
    inputs = {name: torch.from_numpy(array)[None].to(prepared.device) for name, array in columns}
    dtype = prepared.trainer.dtype
    weights = torch.full((1,), coefficient, dtype=dtype, device=prepared.device)
    return Batch(inputs, weights, query.document.losses)
