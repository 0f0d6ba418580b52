"""A query's influence at each training step, with the step's loss and learning rate."""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.runs.errors import UsageError
from engine.runs.run_history import read_history
from engine.runs.tables import RowTable
from engine.scores.attribution import Attribution

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """The curves of one query. All arrays are (step,); NaN where the journal has no value."""

    attribution: str
    query: int
    text: str
    queries: int
    influence: Floats
    """Sum of the scores of all tokens of a step; negative: the step lowered the query's loss."""
    losses: Floats
    rates: Floats

    @property
    def steps(self) -> int:
        """Steps of the training."""
        return len(self.influence)

    @functools.cached_property
    def cumulative(self) -> Floats:
        """The sum of the influence up to and including each step."""
        return np.cumsum(self.influence)

    def share(self, first: int, last: int) -> float:
        """The share of steps ``first`` to ``last - 1`` in the total |influence|."""
        part = float(np.abs(self.influence[first:last]).sum())
        return part / self._total if self._total > 0 else 0.0

    @functools.cached_property
    def _total(self) -> float:
        return float(np.abs(self.influence).sum())

    def csv(self) -> str:
        """The curves as CSV, one line for each step."""
        lines = ["step,influence,cumulative,loss,learning_rate"]
        table = zip(self.influence, self.cumulative, self.losses, self.rates, strict=True)
        lines += [
            f"{step},{','.join(map(repr, map(float, row)))}" for step, row in enumerate(table)
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class BatchDocument:
    """A document that a step trained on, with its score for the query over all steps."""

    document: int
    score: float
    tokens: int
    """How many of its tokens are in the step's batch."""


def read_curves(opened: Attribution, query: int) -> Curves:
    """The curves of one query.

    Raises:
        UsageError: if there is no such query.
        RunError: if a file is damaged.
    """
    measured = opened.query(query)
    influence = opened.scores.step_scores(query).astype(np.float64)
    history, steps = read_history(opened.run), len(influence)
    return Curves(
        opened.id,
        query,
        measured.documents[0].text,
        len(opened.queries),
        influence,
        history.by_step("loss", steps),
        history.by_step("learning_rate", steps),
    )


def batch_documents(opened: Attribution, query: int, step: int) -> list[BatchDocument]:
    """The documents in a step's batch, sorted by |score|, the largest first.

    Raises:
        UsageError: if no row was used at that step.
        RunError: if a file is damaged.
    """
    scores = opened.document_scores(query)
    table = RowTable(opened.run.rows_store)
    rows = np.flatnonzero((table.steps() == step).any(1))
    if not len(rows):
        raise UsageError(f"no row of run {opened.run.id} was used at step {step}")
    owners = table.document_ids(rows)
    ids, counts = np.unique(owners[owners >= 0], return_counts=True)
    documents = [
        BatchDocument(int(document), float(scores[document]), int(count))
        for document, count in zip(ids, counts, strict=True)
    ]
    return sorted(documents, key=lambda each: (-abs(each.score), each.document))
