"""The input of every baseline: the trained model, its documents and the queries."""

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
"""(query, document) Negative where a document is helpful, like ∂φ/∂w. Only the order matters,
because an LDS compares ranks."""


class NotApplicableError(Exception):
    """A method cannot score this run; the message is the reason."""


@dataclass(frozen=True)
class TrainedRun:
    """A trained run and its queries."""

    job: PreparedRun
    final: TrainState
    """s_T."""
    texts: list[str]
    """Text of every document; empty if the documents are not texts."""
    queries: list[Query]
    measurements: list[QueryLoss]

    def batch(self, document: int) -> Batch:
        """A batch whose loss is the mean of one document's losses over its rows."""
        rows = self._rows_of[document]
        stream = self.job.stream("document")
        stream.order = [rows]
        stream.weights.zero_()
        stream.weights[document] = 1.0
        return stream.batch(0, self.job.trainer.dtype)

    def gradient(self, document: int) -> tuple[float, Params]:
        """The loss of :meth:`batch` and its gradient at s_T."""
        return self.query_gradient([self.batch(document)])

    def query_gradients(self) -> Iterator[tuple[float, Params]]:
        """φ of every query and its gradient at s_T."""
        return map(self.query_gradient, self.measurements)

    def query_gradient(self, measurement: QueryLoss) -> tuple[float, Params]:
        """φ and its gradient with respect to the parameters, at s_T."""
        value, gradient = self.job.trainer.evaluator.gradient(self.final, measurement)
        return value, {name: gradient[name] for name in self.final.params}

    @cached_property
    def _rows_of(self) -> list[NDArray[np.int64]]:
        """The rows that contain each document."""
        owners = self.job.rows.document_ids
        rows = np.broadcast_to(np.arange(len(owners))[:, None], owners.shape)
        pairs = np.unique(np.stack([owners[owners >= 0], rows[owners >= 0]]), axis=1)
        starts = np.searchsorted(pairs[0], np.arange(1, self.job.documents))
        return np.split(pairs[1].astype(np.int64), starts)
