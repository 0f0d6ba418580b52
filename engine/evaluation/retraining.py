"""Training a run again with other data weights, and measuring its queries on what comes out.

Everything else stays as it was: the order, D_t and the seed. A document that is left out has
weight 0 in every step, which is what ``score · (w − 1)`` predicts.
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
"""What it takes to read a kept model and to check it."""
Task = tuple[Subset, ModelFile | None]
"""A subset to be measured, and the model that was kept of it, if one was."""


@dataclass(frozen=True)
class Retrained:
    """What was measured on the model of a subset."""

    subset: Subset
    measured: dict[str, list[float]]
    """By attribution, φ of each of its queries; not a number if the training diverged."""
    model: ModelFile | None = None


def without(subset: Subset, documents: int) -> Weights:
    """The data weights that leave a subset out."""
    weights = np.ones(documents)
    weights[list(subset.documents)] = 0.0
    return weights


def retrained(job: PreparedRun, weights: Weights, observer: Observer = null_observer) -> TrainState:
    """s_T of the training with other data weights, (document,).

    Raises:
        DivergedError: if its loss or gradient stops being finite.
    """
    stream = job.stream("document")
    stream.weights = torch.from_numpy(weights)
    return job.trainer.train(job.start, stream, observer=observer)


class Retrainer:
    """Trains without a subset, or takes the model that was kept of it, and measures."""

    def __init__(self, folder: RunFolder, job: PreparedRun, keep: bool) -> None:
        """Retrain a run; with ``keep`` the models are kept beside its bank.

        Raises:
            UsageError: if a model that is divided among ranks is to be kept.
            RunError: if the queries of an attribution cannot be read.
        """
        if keep and job.trainer.ranks.shard_group.count > 1:
            raise UsageError("--keep-models needs a model that is not divided among ranks")
        self._folder, self._job, self._keep = folder, job, keep
        self._asked = {
            attribution.name: measurement_batches(queries_of(attribution), job)
            for attribution in list_attributions(folder.attributions)
        }

    def __call__(self, task: Task, observer: Observer = null_observer) -> Retrained:
        """Do one task."""
        subset, kept = task
        try:
            state, fresh = self._trained(subset, kept, observer)
        except DivergedError:
            # Nothing was predicted for a training that fails: it is no number, and told as such.
            return Retrained(subset, {n: [math.nan] * len(m) for n, m in self._asked.items()})
        model = self._kept(subset, state) if fresh else kept
        return Retrained(subset, self.measure(state), model)

    def measure(self, state: TrainState) -> dict[str, list[float]]:
        """By attribution, φ of each of its queries at s_T."""
        return {
            attribution: [
                self._job.trainer.evaluator.value(state, measurement) for measurement in asked
            ]
            for attribution, asked in self._asked.items()
        }

    def state(self, subset: Subset) -> TrainState:
        """s_T without a subset; of the run itself if that is ``NOTHING``."""
        return self._trained(subset, None, null_observer)[0]

    def _trained(
        self, subset: Subset, kept: ModelFile | None, observer: Observer
    ) -> tuple[TrainState, bool]:
        """The model of a subset, and whether it was trained just now."""
        job, steps = self._job, len(self._job.order)
        if subset == NOTHING and self._folder.has_trajectory():
            return job.trainer.open(self._folder.trajectory).load_state(steps), False
        if kept is not None:
            with contextlib.suppress(DamagedFileError):
                read = read_tensors(self._models, kept).items()
                tensors = {name: tensor.to(job.device) for name, tensor in read}
                buffers = {name: tensors.pop(name) for name in job.trainer.loss.buffers()}
                return TrainState(steps, tensors, [], buffers), False
        return retrained(job, without(subset, job.documents), observer), True

    def _kept(self, subset: Subset, state: TrainState) -> ModelFile | None:
        if not self._keep or self._job.trainer.ranks.index != 0:
            return None
        self._models.mkdir(parents=True, exist_ok=True)
        tensors = {**state.params, **state.buffers}
        return write_tensors(self._models / f"{subset.name}.safetensors", tensors)

    @property
    def _models(self) -> Path:
        return self._folder.retrainings_file.with_name("models")


def queries_of(attribution: Path) -> Queries:
    """The queries of a complete attribution.

    Raises:
        RunError: if they cannot be read.
    """
    reduction = (read_completion(attribution) or {})["reduction"]
    return read_stored_queries(attribution / STORED_QUERIES, reduction)
