"""What every baseline starts from: the trained model, its documents and the queries."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from engine.attribution.prepared_run import PreparedRun
from engine.attribution.queries import Query
from engine.replay.state import Batch, Params, TrainState
from engine.training.query_loss import QueryLoss

Scores = NDArray[np.float64]
"""(query, document) Like ∂φ/∂w: negative where a document helps. Only the order has to mean
anything: an LDS compares ranks."""


class NotApplicableError(Exception):
    """A method cannot serve here; says why."""


@dataclass(frozen=True)
class Known:
    """A trained run, as baselines see it."""

    job: PreparedRun
    final: TrainState
    """s_T."""
    texts: list[str]
    """Of every document; none if they are not texts."""
    queries: list[Query]
    measurements: list[QueryLoss]

    def batch(self, document: int) -> Batch:
        """One document's own losses, as a batch whose loss is their mean over its rows."""
        rows = self._rows_of[document]
        stream = self.job.stream("document")
        stream.order = [rows]
        stream.weights.zero_()
        stream.weights[document] = 1.0
        return stream.batch(0, self.job.trainer.dtype)

    def gradient(self, document: int) -> tuple[float, Params]:
        """The loss of :meth:`batch` and its gradient at s_T."""
        return self.measured([self.batch(document)])

    def query_gradients(self) -> Iterator[tuple[float, Params]]:
        """Every φ and its gradient at s_T."""
        return map(self.measured, self.measurements)

    def measured(self, measurement: QueryLoss) -> tuple[float, Params]:
        """φ and its gradient in the parameters at s_T."""
        value, gradient = self.job.trainer.evaluator.gradient(self.final, measurement)
        return value, {name: gradient[name] for name in self.final.params}

    @cached_property
    def _rows_of(self) -> list[NDArray[np.int64]]:
        """The rows that each document is in."""
        owners = self.job.rows.document_ids
        rows = np.broadcast_to(np.arange(len(owners))[:, None], owners.shape)
        pairs = np.unique(np.stack([owners[owners >= 0], rows[owners >= 0]]), axis=1)
        starts = np.searchsorted(pairs[0], np.arange(1, self.job.documents))
        return np.split(pairs[1].astype(np.int64), starts)
