"""The documents asked about, as measurements of a trained model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.contract.config import QueriesConfig, Reduction
from engine.contract.request import AttributionRequest
from engine.data.sources import Documents, read_documents
from engine.data.tokens import TokenizedDocument, tokenize
from engine.magic.state import Batch, TrainState
from engine.measurements import Measurement
from engine.records.tables import read_table, write_queries
from engine.worker.job import Job, check_tokens, model_inputs

_OWN = ("id", "text", "input_ids", "targets", "measurement", "coefficient")
_RESERVED = (*_OWN, "loss_before", "loss_after", "outside", "expected_error")


@dataclass(frozen=True)
class Query:
    """One document asked about: φ of its measurement has ``coefficient`` times its mean loss."""

    text: str
    tokens: TokenizedDocument
    measurement: int
    coefficient: float
    columns: dict[str, Any]


@dataclass(frozen=True)
class Queries:
    """All query documents of an attribution and how they combine."""

    items: list[Query]
    reduction: Reduction

    @property
    def measurements(self) -> int:
        """Length of the scores' query axis."""
        return 1 + max(query.measurement for query in self.items)


def read_queries(config: QueriesConfig, job: Job) -> Queries:
    """The queries of a config, tokenised and checked.

    Raises:
        UsageError: for whatever is wrong with them.
    """
    items = _items(read_documents(config, "queries"), job, "queries", config.reduction, 1.0)
    if config.contrast is not None:
        contrast = read_documents(config.contrast, "queries.contrast")
        items += _items(contrast, job, "queries.contrast", config.reduction, -1.0)
    return Queries(items, config.reduction)


def typed_queries(asked: AttributionRequest, job: Job) -> Queries:
    """Queries given as texts."""
    items = _items(typed_documents(asked), job, "--text", asked.reduction, 1.0)
    return Queries(items, asked.reduction)


def typed_documents(asked: AttributionRequest) -> Documents:
    """The texts of a request, each behind its prompt if there are any."""
    import pyarrow as pa

    columns = {"text": asked.texts or ()}
    if asked.prompts is not None:
        columns = {"prompt": asked.prompts, "completion": asked.texts or ()}
    rows = np.arange(len(asked.texts or ()), dtype=np.int64)
    return Documents(pa.table({n: list(c) for n, c in columns.items()}), tuple(columns), rows)


def measurement_batches(queries: Queries, job: Job) -> list[Measurement]:
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
    write_queries(path, _table(queries))


def read_asked(path: Path, reduction: Reduction) -> Queries:
    """The queries that :func:`write_asked` wrote.

    Raises:
        RunError: if the file is damaged.
    """
    table = read_table(path).to_pydict()
    own = {name: table.pop(name) for name in _OWN}
    items = [
        Query(
            text=own["text"][index],
            tokens=TokenizedDocument(
                np.array(own["input_ids"][index], np.int32),
                np.append(False, own["targets"][index][:-1]).astype(np.bool_),
            ),
            measurement=own["measurement"][index],
            coefficient=own["coefficient"][index],
            columns={name: values[index] for name, values in table.items()},
        )
        for index in own["id"]
    ]
    return Queries(items, reduction)


def query_table(queries: Queries, before: list[float], after: list[float]) -> dict[str, list[Any]]:
    """The columns of ``queries.parquet``."""
    table = _table(queries)
    own = {name: table.pop(name) for name in _OWN}
    losses = {"loss_before": before, "loss_after": after}
    last = {name: own.pop(name) for name in ("measurement", "coefficient")}
    return {**own, **losses, **last, **table}


def _table(queries: Queries) -> dict[str, list[Any]]:
    items = queries.items
    table: dict[str, list[Any]] = {
        "id": list(range(len(items))),
        "text": [query.text for query in items],
        "input_ids": [query.tokens.input_ids.tolist() for query in items],
        "targets": [query.tokens.targets.tolist() for query in items],
        "measurement": [query.measurement for query in items],
        "coefficient": [query.coefficient for query in items],
    }
    for name in dict.fromkeys(name for query in items for name in query.columns):
        kept = f"data_{name}" if name in _RESERVED else name
        table[kept] = [query.columns.get(name) for query in items]
    return table


def _items(
    documents: Documents, job: Job, where: str, reduction: Reduction, sign: float
) -> list[Query]:
    length = job.config.data.sequence_length
    tokenized = tokenize(documents, job.model.tokenizer, length, where)
    check_tokens(tokenized, job.model, where)
    share = sign / len(documents) if reduction == "mean" else sign
    others = [n for n in documents.columns.column_names if n not in documents.text_columns]
    values = documents.columns.select(others).to_pylist()
    return [
        Query(
            text="".join(documents.texts(index)),
            tokens=tokens,
            measurement=index if reduction == "none" else 0,
            coefficient=share,
            columns=values[index] if others else {},
        )
        for index, tokens in enumerate(tokenized)
    ]


def _batch(query: Query, job: Job, coefficient: float) -> Batch:
    columns = model_inputs(query.tokens.input_ids, query.tokens.targets)
    inputs = {name: torch.from_numpy(values)[None] for name, values in columns.items()}
    weights = torch.full((1,), coefficient, dtype=job.trainer.dtype, device=job.device)
    return Batch(
        {name: column.to(job.device) for name, column in inputs.items()},
        weights,
        int(query.tokens.targets.sum()),
    )
