"""Scores of baselines, computed once and stored beside those of the attribution.

``attributions/ID/baselines/METHOD.npy`` is (query, document), negative where a document is helpful.
"""

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from engine.attribution.prepared_run import PreparedRun
from engine.attribution.queries import measurement_batches
from engine.evaluation.baselines.ekfac import ekfac
from engine.evaluation.baselines.similarity import bm25, cosine
from engine.evaluation.baselines.trained_run import NotApplicableError, Scores, TrainedRun
from engine.evaluation.baselines.trak import trak
from engine.evaluation.retraining import Retrainer, queries_of
from engine.evaluation.subsets import NOTHING
from engine.evaluation.validation import BASELINES_FOLDER
from engine.runs.checksummed import write_with_digest
from engine.runs.errors import RunError, UsageError
from engine.runs.run_folder import RunFolder
from engine.runs.tables import read_table

METHODS: dict[str, Callable[[TrainedRun], Scores]] = {
    "cosine": cosine,
    "bm25": bm25,
    "trak": trak,
    "ekfac": ekfac,
}


def score_baselines(
    folder: RunFolder, attribution: Path, job: PreparedRun, retrainer: Retrainer
) -> Iterable[tuple[str, str | None]]:
    """Compute the missing scores, and yield each method with the reason if it has none.

    Raises:
        UsageError: if several ranks share the model.
    """
    if job.trainer.ranks.count > 1:
        raise UsageError("--baselines needs a run on one rank")
    scores = attribution / BASELINES_FOLDER
    scores.mkdir(exist_ok=True)
    run = None
    for name, method in METHODS.items():
        file, failure = scores / f"{name}.npy", None
        if not file.exists():
            run = run or trained_run(folder, attribution, job, retrainer)
            failure = _write(file, method, run)
        yield name, failure


def _write(file: Path, method: Callable[[TrainedRun], Scores], run: TrainedRun) -> str | None:
    try:
        scores = method(run)
    except NotApplicableError as error:
        return str(error)
    except ImportError as error:
        return f"{error.name} is not installed; see --baselines in the documentation"
    content = io.BytesIO()
    np.save(content, scores)
    write_with_digest(file, content.getvalue())
    return None


def trained_run(
    folder: RunFolder, attribution: Path, job: PreparedRun, retrainer: Retrainer
) -> TrainedRun:
    """The input of the methods."""
    queries = queries_of(attribution)
    return TrainedRun(
        job,
        retrainer.state(NOTHING),
        _texts(folder) if job.task.tokenizer is not None else [],
        queries.items,
        measurement_batches(queries, job),
    )


def _texts(folder: RunFolder) -> list[str]:
    """The texts of the documents: the text, or the prompt and its completion."""
    try:
        columns = read_table(folder.documents_file).to_pydict()
    except RunError:
        return []
    names = ["text"] if "text" in columns else ["prompt", "completion"]
    parts = [columns[name] for name in names]
    return [" ".join(map(str, part)) for part in zip(*parts, strict=True)]
