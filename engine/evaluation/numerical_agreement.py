"""Numerical agreement: how equal the scores of a second replay in other micro-batches are.

In exact arithmetic the scores do not depend on how a batch is split. The difference is rounding,
amplified by the replay from s_T to s_0.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.attribution.prediction import pass_limits
from engine.attribution.prepared_run import PreparedRun
from engine.attribution.queries import measurement_batches
from engine.evaluation.retraining import queries_of
from engine.evaluation.trust import AGREEMENT_FILE
from engine.replay.replay import Observer
from engine.runs.checksummed import read_record, write_record
from engine.runs.errors import UsageError
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreReader

MOST_QUERIES = 4
"""Queries replayed; rounding grows alike for all queries of a training."""

Floats = NDArray[np.float64]


def measure_numerical_agreement(
    folder: RunFolder, attribution: Path, job: PreparedRun, observer: Observer
) -> None:
    """Replay the first queries in smaller micro-batches, and store how the scores compare.

    Nothing is done if the record exists. It has ``micro_batch_size`` and, for each query, the
    ``correlation`` of its document scores with the stored ones and their relative ``difference``.

    Raises:
        UsageError: if there is no smaller micro-batch, several ranks, or no trajectory.
    """
    if read_record(attribution / AGREEMENT_FILE) is not None:
        return
    again = _with_smaller_micro_batches(job)
    if not folder.has_trajectory():
        raise UsageError(
            f"--numerical-agreement needs the trajectory of run {folder.id}, which was removed; "
            "run the config again"
        )
    measurements = measurement_batches(queries_of(attribution), job)
    count = min(len(measurements), MOST_QUERIES, pass_limits(again, "document").fitting)
    replayed = again.trainer.backward(
        folder.trajectory, again.stream("document"), measurements[:count], observer=observer
    )
    reader = ScoreReader(attribution)
    pairs = [
        (reader.document_scores(query).astype(np.float64), scores)
        for query, scores in enumerate(replayed.weights.double().numpy())
    ]
    facts = {
        "micro_batch_size": again.trainer.step.micro_batch_size,
        "correlation": [_correlation(*pair) for pair in pairs],
        "difference": [_difference(*pair) for pair in pairs],
    }
    write_record(attribution / AGREEMENT_FILE, facts)


def _with_smaller_micro_batches(job: PreparedRun) -> PreparedRun:
    """The same job with micro-batches of half the size."""
    if job.trainer.ranks.count > 1:
        raise UsageError("--numerical-agreement needs a run on one rank")
    current = job.trainer.step.micro_batch_size or job.config.training.batch_size
    size = min(current, len(job.rows)) // 2
    if size == 0 or job.trainer.loss.buffers():
        reason = "they have one row" if size == 0 else "batch norm needs whole batches"
        raise UsageError(
            f"--numerical-agreement needs smaller micro-batches, but {reason}; train with "
            "model.dtype: float64 and compare the scores instead"
        )
    return job.with_micro_batch(size)


def _correlation(first: Floats, second: Floats) -> float:
    # Without variance there is no correlation: constant scores agree if they are equal.
    if first.std() == 0 or second.std() == 0:
        return float(np.allclose(first, second))
    return float(np.corrcoef(first, second)[0, 1])


def _difference(first: Floats, second: Floats) -> float:
    """‖first − second‖ / ‖first‖ in the Euclidean norm."""
    return float(np.linalg.norm(first - second) / max(float(np.linalg.norm(first)), 1e-300))
