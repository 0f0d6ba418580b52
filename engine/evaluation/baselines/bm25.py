"""BM25: how well a document's words match a query's, by the ``bm25s`` library."""

import re

import numpy as np

from engine.evaluation.baselines.known import Known, NotApplicableError, Scores


def bm25(known: Known) -> Scores:
    """Minus the BM25 score of every document for every query, of whose texts it is made."""
    import bm25s

    if not known.texts:
        raise NotApplicableError("the documents are not texts")
    index = bm25s.BM25()
    index.index([_words(text) for text in known.texts], show_progress=False)
    scores = np.zeros((len(known.measurements), known.job.documents))
    for query in known.queries:
        found = index.get_scores(_words(query.document.text))
        scores[query.measurement] -= query.coefficient * np.asarray(found, np.float64)
    return scores


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
