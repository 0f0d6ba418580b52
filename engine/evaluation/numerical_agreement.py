"""Whether scores survive another order of rounding: a replay again, in other micro-batches.

Exact arithmetic gives the same scores however a batch is split. How far they differ is how far
rounding, amplified on the way from s_T to s_0, has got into them.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.attribution.prediction import pass_limits
from engine.attribution.prepared_run import PreparedRun
from engine.attribution.queries import measurement_batches
from engine.evaluation.retraining import queries_of
from engine.replay.replay import Observer
from engine.runs.checksummed import read_record, write_record
from engine.runs.errors import UsageError
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreReader

AGREEMENT_FILE = "numerical_agreement.json"
MOST_QUERIES = 4
"""Rounding grows alike for all queries of a training: a few tell of it."""

Floats = NDArray[np.float64]


def measure_agreement(
    folder: RunFolder, attribution: Path, job: PreparedRun, observer: Observer
) -> None:
    """Replay the first queries of an attribution in smaller micro-batches and compare.

    The record is ``micro_batch_size``, and of each query the ``correlation`` of its documents'
    scores with those kept and the relative ``difference``. Nothing is done if it is there.

    Raises:
        UsageError: if there is no smaller micro-batch, several ranks, or no trajectory.
    """
    if read_record(attribution / AGREEMENT_FILE) is not None:
        return
    again = _in_other_pieces(job)
    if not folder.has_trajectory():
        raise UsageError(
            f"--numerical-agreement needs the trajectory of run {folder.id}, which was removed; "
            "run the config again"
        )
    measurements = measurement_batches(queries_of(attribution), job)
    count = min(len(measurements), MOST_QUERIES, pass_limits(again, "document").fitting)
    found = again.trainer.backward(
        folder.trajectory, again.stream("document"), measurements[:count], observer=observer
    )
    reader = ScoreReader(attribution)
    pairs = [
        (reader.document_scores(query).astype(np.float64), scores)
        for query, scores in enumerate(found.weights.double().numpy())
    ]
    facts = {
        "micro_batch_size": again.trainer.step.micro_batch_size,
        "correlation": [_correlation(*pair) for pair in pairs],
        "difference": [_difference(*pair) for pair in pairs],
    }
    write_record(attribution / AGREEMENT_FILE, facts)


def _in_other_pieces(job: PreparedRun) -> PreparedRun:
    """The same job with batches split in another way."""
    if job.trainer.ranks.count > 1:
        raise UsageError("--numerical-agreement needs a run on one rank")
    together = job.trainer.step.micro_batch_size or job.config.training.batch_size
    size = min(together, len(job.rows)) // 2
    if size == 0 or job.trainer.loss.buffers():
        why_not = "they are of one row" if size == 0 else "batch norm takes them whole"
        raise UsageError(
            f"--numerical-agreement splits batches in another way, and here {why_not}; train with "
            "model.dtype: float64 and compare the scores instead"
        )
    return job.of_micro_batch(size)


def _correlation(first: Floats, second: Floats) -> float:
    # Scores that are all alike agree if they are the same.
    if first.std() == 0 or second.std() == 0:
        return float(np.allclose(first, second))
    return float(np.corrcoef(first, second)[0, 1])


def _difference(first: Floats, second: Floats) -> float:
    """Relative to the size of the first, in the Euclidean norm."""
    return float(np.linalg.norm(first - second) / max(float(np.linalg.norm(first)), 1e-300))
