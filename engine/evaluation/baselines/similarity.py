"""Similarity baselines: cosine of gradients, and BM25 on words."""

import re

import numpy as np
import torch

from engine.evaluation.baselines.trained_run import NotApplicableError, Scores, TrainedRun
from engine.replay.state import Params


def cosine(run: TrainedRun) -> Scores:
    """Minus the cosine of every query's gradient and every document's, at the end of training."""
    queries = [gradient for _, gradient in run.query_gradients()]
    lengths = np.array([_dot(query, query) ** 0.5 for query in queries])
    scores = np.zeros((len(queries), run.job.documents))
    for document in range(run.job.documents):
        _, gradient = run.gradient(document)
        length = _dot(gradient, gradient) ** 0.5
        products = np.array([_dot(query, gradient) for query in queries])
        scores[:, document] = -products / np.maximum(lengths * length, 1e-300)
    return scores


def bm25(run: TrainedRun) -> Scores:
    """Minus the BM25 score of every document for the texts of every query (library ``bm25s``).

    Raises:
        NotApplicableError: if the documents are not texts.
    """
    import bm25s

    if not run.texts:
        raise NotApplicableError("the documents are not texts")
    index = bm25s.BM25()
    index.index([_words(text) for text in run.texts], show_progress=False)
    scores = np.zeros((len(run.measurements), run.job.documents))
    for query in run.queries:
        matches = index.get_scores(_words(query.document.text))
        scores[query.measurement] -= query.coefficient * np.asarray(matches, np.float64)
    return scores


def _dot(first: Params, second: Params) -> float:
    return sum(torch.sum(value * second[name]).item() for name, value in first.items())


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
