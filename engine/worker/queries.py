"""The documents asked about, as measurements of a trained model."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engine.contract.config import QueriesConfig, Reduction, SourceConfig
from engine.contract.errors import UsageError
from engine.data.sources import Documents, read_documents
from engine.data.tokens import TokenizedDocument, tokenize
from engine.magic.state import Batch, TrainState
from engine.trainer import Measurement
from engine.worker.job import Job, check_tokens, model_inputs


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


def typed_queries(texts: list[str], reduction: Reduction, job: Job) -> Queries:
    """Queries given as texts."""
    import pyarrow as pa

    for text in texts:
        if not text.strip():
            raise UsageError("--text is empty; type what the model should have said")
    source = SourceConfig(path="typed")
    rows = np.arange(len(texts), dtype=np.int64)
    documents = Documents(pa.table({"text": texts}), source.columns, rows)
    return Queries(_items(documents, job, "--text", reduction, 1.0), reduction)


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
            job.trainer.loss(state.params, _batch(query, job, 1.0)).item()
            for query in queries.items
        ]


def query_table(queries: Queries, before: list[float], after: list[float]) -> dict[str, list[Any]]:
    """The columns of ``queries.parquet``."""
    items = queries.items
    table: dict[str, list[Any]] = {
        "id": list(range(len(items))),
        "text": [query.text for query in items],
        "input_ids": [query.tokens.input_ids.tolist() for query in items],
        "targets": [query.tokens.targets.tolist() for query in items],
        "loss_before": before,
        "loss_after": after,
        "measurement": [query.measurement for query in items],
        "coefficient": [query.coefficient for query in items],
    }
    for name in dict.fromkeys(name for query in items for name in query.columns):
        kept = f"data_{name}" if name in table else name
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
