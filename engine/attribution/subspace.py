"""Replaying a basis of the queries' gradients in place of the queries, and putting it together."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.attribution.budget import fitting
from engine.attribution.prepared_run import Job
from engine.attribution.query_request import QueryRequest
from engine.attribution.replay_memory import needs_of
from engine.attribution.reporter import Reporter
from engine.replay.query_subspace import Subspace, gram_matrix, subspace_of
from engine.replay.state import Params
from engine.runs.atomic import write_atomically
from engine.runs.events import Event
from engine.runs.score_store import Floats, ScoreReader, ScoreWriter, read_completion
from engine.runs.tables import read_table, write_queries
from engine.training.measurements import Measurement
from engine.trajectory.tensor_files import DamagedFileError, read_tensors, write_tensors

INNER_PRODUCT = "euclidean"
TOGETHER_BYTES = 2**28
"""Scores of queries that are put together at a time: each time the whole basis is read."""
_TENSORS, _FACTS, _BASIS = "subspace.safetensors", "subspace.json", "basis"


@dataclass(frozen=True)
class QueryBasis:
    """A subspace of an attribution's queries, and where the scores of its basis grow."""

    asking: QueryRequest
    subspace: Subspace

    @property
    def folder(self) -> Path:
        """Where the scores of the basis grow."""
        return self.asking.staging / _BASIS

    @property
    def is_smaller(self) -> bool:
        """Whether there are fewer directions than queries; otherwise the queries serve."""
        return self.subspace.rank < len(self.subspace.norms)

    @property
    def facts(self) -> dict[str, Any]:
        """What an attribution says about the subspace its scores were put together from."""
        outside = self.subspace.outside.max().item() if self.is_smaller else 0.0
        return {
            "tolerance": self.asking.tolerance,
            "rank": self.subspace.rank,
            "inner_product": INNER_PRODUCT,
            "outside": outside,
        }


def query_basis(
    asking: QueryRequest, job: Job, measurements: list[Measurement], report: Reporter
) -> QueryBasis:
    """The basis that an earlier attempt stored, or one found and stored now.

    Raises:
        DivergedError: if a query's loss is not finite.
        RunError: if the trajectory is damaged.
    """
    ranks = job.trainer.ranks
    stored = ranks.everyone(_stored(asking.staging))[0]
    if stored is not None:
        return QueryBasis(asking, stored)
    # Replays of another basis would be put together wrongly.
    if ranks.index == 0:
        forget_basis(asking.staging)
    assert asking.tolerance is not None
    count, reader = len(measurements), job.trainer.open(asking.folder.trajectory)
    held = max(2, min(count, fitting(job, needs_of(job, asking.granularity))))
    final = reader.load_state(reader.schedule.steps)

    def gradient(query: int) -> Params:
        return job.trainer.measuring.gradient(final, measurements[query])[1]

    gram = gram_matrix(gradient, count, held, ranks.group)
    basis = QueryBasis(asking, subspace_of(gram, asking.tolerance, job.trainer.dtype))
    if ranks.index == 0:
        _store(asking.staging, basis.subspace)
    ranks.wait()
    report(Event.SUBSPACE, attribution=asking.identifier, queries=count, **basis.facts)
    return basis


def put_together(
    basis: QueryBasis,
    writer: ScoreWriter,
    sums: Callable[[Floats], Floats],
    rounding: list[float | None],
) -> list[float]:
    """Write the scores of every query from those of the basis, summed in float64.

    Args:
        basis: whose scores are complete.
        writer: where the queries' scores go.
        sums: the documents' scores from those of the stream's weights.
        rounding: by direction, the relative error to expect of its scores.

    Returns:
        The same by query.
    """
    reader, subspace = ScoreReader(basis.folder), basis.subspace
    of_weights = reader.token_scores if reader.has_tokens else reader.document_scores
    lengths = [float(np.linalg.norm(of_weights(place))) for place in range(subspace.rank)]
    steps = np.stack([reader.step_scores(place) for place in range(subspace.rank)])
    coefficients = subspace.coefficients.numpy()
    norms = torch.zeros(len(coefficients), dtype=torch.float64)
    for chosen in _portions(len(coefficients), of_weights(0).nbytes):
        scores = np.zeros((len(chosen), *of_weights(0).shape))
        for place in range(subspace.rank):
            direction = of_weights(place)
            for row, query in enumerate(chosen):
                scores[row] += coefficients[query, place] * direction
        for row, query in enumerate(chosen):
            norms[query] = float(np.linalg.norm(scores[row]))
            writer.write(query, scores[row], sums(scores[row]), coefficients[query] @ steps)
    errors = subspace.errors(torch.tensor(lengths, dtype=torch.float64), norms)
    write_shares(basis.asking, subspace.outside.tolist(), errors.tolist())
    # Each direction's error is one of its own, so that their squares add.
    own = np.array([error or 0.0 for error in rounding]) * lengths
    together = np.linalg.norm(coefficients * own, axis=1) / np.maximum(norms.numpy(), 1e-300)
    return np.minimum(together, 1.0).tolist()  # type: ignore[no-any-return]


def write_shares(asking: QueryRequest, outside: list[float], errors: list[float]) -> None:
    """Write beside every query what share of its gradient is outside, and the error to expect."""
    file = asking.staging / "queries.parquet"
    table = read_table(file).to_pydict()
    table["outside"] = [outside[measurement] for measurement in table["measurement"]]
    table["expected_error"] = [errors[measurement] for measurement in table["measurement"]]
    write_queries(file, table)


def is_replayed(basis: QueryBasis) -> bool:
    """Whether the scores of the basis are complete."""
    return read_completion(basis.folder) is not None


def forget_basis(staging: Path) -> None:
    """Remove the basis and whatever was replayed of it."""
    (staging / _FACTS).unlink(missing_ok=True)
    (staging / _TENSORS).unlink(missing_ok=True)
    shutil.rmtree(staging / _BASIS, ignore_errors=True)


def _portions(queries: int, size: int) -> Iterator[range]:
    together = max(1, TOGETHER_BYTES // max(1, size))
    return (range(i, min(i + together, queries)) for i in range(0, queries, together))


def _store(staging: Path, subspace: Subspace) -> None:
    (staging / _BASIS).mkdir(parents=True, exist_ok=True)
    facts = write_tensors(staging / _TENSORS, dict(vars(subspace)))
    write_atomically(staging / _FACTS, json.dumps(facts).encode())


def _stored(staging: Path) -> Subspace | None:
    with contextlib.suppress(DamagedFileError, OSError, ValueError, KeyError, TypeError):
        facts = json.loads((staging / _FACTS).read_text(encoding="utf-8"))
        return Subspace(**read_tensors(staging, facts))
    return None
