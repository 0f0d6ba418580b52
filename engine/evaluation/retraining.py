"""Training a run again with other data weights, and measuring its queries on the result.

Order, schedule, initial state and seed stay the same. A document that is left out has weight 0 in
every step, which is what the prediction φ(1) + Σ score·(w − 1) describes.
"""

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.attribution.prepared_run import PreparedRun
from engine.attribution.queries import (
    STORED_QUERIES,
    Queries,
    measurement_batches,
    read_stored_queries,
)
from engine.evaluation.subsets import NOTHING, Subset
from engine.replay.replay import DivergedError, Observer, null_observer
from engine.replay.state import TrainState
from engine.runs.errors import UsageError
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import list_attributions, read_completion
from engine.trajectory.tensor_files import DamagedFileError, read_tensors, write_tensors

Weights = NDArray[np.float64]
"""(document,) The data weights of a training."""
ModelFile = dict[str, Any]
"""Record of a stored model: its file, and what checks the file."""
Task = tuple[Subset, ModelFile | None]
"""A subset to measure, and its stored model, if there is one."""


@dataclass(frozen=True)
class Retrained:
    """What was measured on the model of a subset."""

    subset: Subset
    measurements: dict[str, list[float]]
    """By attribution, φ of each of its queries; NaN if the training diverged."""
    model: ModelFile | None = None


class Retrainer:
    """Trains without a subset, or loads its stored model, and measures all queries on it."""

    def __init__(self, folder: RunFolder, job: PreparedRun, keep_models: bool) -> None:
        """Retrain a run.

        Args:
            folder: the run.
            job: its job.
            keep_models: store the models beside the cache of retrainings.

        Raises:
            UsageError: if models are to be stored that are divided among ranks.
            RunError: if the queries of an attribution cannot be read.
        """
        if keep_models and job.trainer.ranks.shard_group.count > 1:
            raise UsageError("--keep-models needs a model that is not divided among ranks")
        self._folder, self._job, self._keep_models = folder, job, keep_models
        self._query_losses = {
            attribution.name: measurement_batches(queries_of(attribution), job)
            for attribution in list_attributions(folder.attributions)
        }

    def __call__(self, task: Task, observer: Observer = null_observer) -> Retrained:
        """Do one task."""
        subset, stored = task
        try:
            state, is_new = self._state(subset, stored, observer)
        except DivergedError:
            # Predictions are not comparable with a training that diverges.
            losses = self._query_losses.items()
            return Retrained(subset, {name: [math.nan] * len(each) for name, each in losses})
        model = self._store(subset, state) if is_new else stored
        return Retrained(subset, self.measure(state), model)

    def measure(self, state: TrainState) -> dict[str, list[float]]:
        """By attribution, φ of each of its queries at s_T."""
        return {
            attribution: [self._job.trainer.evaluator.value(state, loss) for loss in losses]
            for attribution, losses in self._query_losses.items()
        }

    def state(self, subset: Subset) -> TrainState:
        """s_T without a subset; the run's own s_T for ``NOTHING``."""
        return self._state(subset, None, null_observer)[0]

    def _state(
        self, subset: Subset, stored: ModelFile | None, observer: Observer
    ) -> tuple[TrainState, bool]:
        """s_T of a subset, and whether it was trained now."""
        job, steps = self._job, len(self._job.order)
        if subset == NOTHING and self._folder.has_trajectory():
            return job.trainer.open(self._folder.trajectory).load_state(steps), False
        if stored is not None:
            with contextlib.suppress(DamagedFileError):
                read = read_tensors(self._models, stored).items()
                tensors = {name: tensor.to(job.device) for name, tensor in read}
                buffers = {name: tensors.pop(name) for name in job.trainer.loss.buffers()}
                return TrainState(steps, tensors, [], buffers), False
        return retrain(job, weights_without(subset, job.documents), observer), True

    def _store(self, subset: Subset, state: TrainState) -> ModelFile | None:
        if not self._keep_models or self._job.trainer.ranks.index != 0:
            return None
        self._models.mkdir(parents=True, exist_ok=True)
        tensors = {**state.params, **state.buffers}
        return write_tensors(self._models / f"{subset.name}.safetensors", tensors)

    @property
    def _models(self) -> Path:
        return self._folder.retrainings_file.with_name("models")


def retrain(job: PreparedRun, weights: Weights, observer: Observer = null_observer) -> TrainState:
    """s_T of the training with other data weights, (document,).

    Raises:
        DivergedError: if the loss or the gradient is not finite.
    """
    stream = job.stream("document")
    stream.weights = torch.from_numpy(weights)
    return job.trainer.train(job.start, stream, observer=observer)


def weights_without(subset: Subset, documents: int) -> Weights:
    """Data weights (document,): 0 for the documents of a subset, 1 for all others."""
    weights = np.ones(documents)
    weights[list(subset.documents)] = 0.0
    return weights


def queries_of(attribution: Path) -> Queries:
    """The queries of a complete attribution.

    Raises:
        RunError: if they cannot be read.
    """
    reduction = (read_completion(attribution) or {})["reduction"]
    return read_stored_queries(attribution / STORED_QUERIES, reduction)
