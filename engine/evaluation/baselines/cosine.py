"""Gradient cosine: how far a document's gradient at the end of training points along a query's."""

import numpy as np
import torch

from engine.evaluation.baselines.known import Known, Scores
from engine.replay.state import Params


def cosine(known: Known) -> Scores:
    """Minus the cosine of every query's gradient and every document's."""
    queries = [gradient for _, gradient in known.query_gradients()]
    lengths = np.array([_dot(query, query) ** 0.5 for query in queries])
    scores = np.zeros((len(queries), known.job.documents))
    for document in range(known.job.documents):
        _, gradient = known.gradient(document)
        length = _dot(gradient, gradient) ** 0.5
        along = np.array([_dot(query, gradient) for query in queries])
        scores[:, document] = -along / np.maximum(lengths * length, 1e-300)
    return scores


def _dot(first: Params, second: Params) -> float:
    return sum(torch.sum(value * second[name]).item() for name, value in first.items())
