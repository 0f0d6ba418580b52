"""Scores of baselines, computed once and kept beside those of the attribution.

``attributions/ID/baselines/METHOD.npy`` is (query, document), negative where a document helps.
"""

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from engine.attribution.prepared_run import PreparedRun
from engine.attribution.queries import measurement_batches
from engine.evaluation.baselines.bm25 import bm25
from engine.evaluation.baselines.cosine import cosine
from engine.evaluation.baselines.ekfac import ekfac
from engine.evaluation.baselines.known import Known, NotApplicableError, Scores
from engine.evaluation.baselines.trak import trak
from engine.evaluation.retraining import Retrainer, queries_of
from engine.evaluation.subsets import NOTHING
from engine.runs.checksummed import write_with_digest
from engine.runs.errors import RunError, UsageError
from engine.runs.run_folder import RunFolder
from engine.runs.tables import read_table

METHODS: dict[str, Callable[[Known], Scores]] = {
    "cosine": cosine,
    "bm25": bm25,
    "trak": trak,
    "ekfac": ekfac,
}


def score_baselines(
    folder: RunFolder, attribution: Path, job: PreparedRun, retrainer: Retrainer
) -> Iterable[tuple[str, str | None]]:
    """Compute what is lacking; every method as it is done, with why not if it cannot serve.

    Raises:
        UsageError: if several ranks share the model.
    """
    if job.trainer.ranks.count > 1:
        raise UsageError("--baselines needs a run on one rank")
    kept = attribution / "baselines"
    kept.mkdir(exist_ok=True)
    known = None
    for name, method in METHODS.items():
        file, why_not = kept / f"{name}.npy", None
        if not file.exists():
            known = known or known_of(folder, attribution, job, retrainer)
            why_not = _write(file, method, known)
        yield name, why_not


def _write(file: Path, method: Callable[[Known], Scores], known: Known) -> str | None:
    try:
        scores = method(known)
    except NotApplicableError as error:
        return str(error)
    except ImportError as error:
        return f"{error.name} is not installed; the README says how"
    content = io.BytesIO()
    np.save(content, scores)
    write_with_digest(file, content.getvalue())
    return None


def known_of(folder: RunFolder, attribution: Path, job: PreparedRun, retrainer: Retrainer) -> Known:
    """What the methods start from."""
    queries = queries_of(attribution)
    return Known(
        job,
        retrainer.state(NOTHING),
        _texts(folder) if job.task.tokenizer is not None else [],
        queries.items,
        measurement_batches(queries, job),
    )


def _texts(folder: RunFolder) -> list[str]:
    """The documents' texts, a prompt before its completion."""
    try:
        columns = read_table(folder.documents_file).to_pydict()
    except RunError:
        return []
    names = ["text"] if "text" in columns else ["prompt", "completion"]
    parts = [columns[name] for name in names]
    return [" ".join(map(str, part)) for part in zip(*parts, strict=True)]
