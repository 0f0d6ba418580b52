"""A prepared run: its task, stream and trainer."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from engine.cost.training_profile import TrainingProfile
from engine.models.load import LoadedModel
from engine.replay.optimizers import LearningRateSpec
from engine.replay.state import TrainState
from engine.runs.config import Granularity, RunConfig
from engine.tasks.task import Origins, Rows, Task
from engine.training.data_stream import DataStream
from engine.training.trainer import Trainer


@dataclass(frozen=True)
class PreparedRun:
    """What training, measuring and replaying need."""

    config: RunConfig
    task: Task
    documents: int
    order: list[Any]
    trainer: Trainer
    rate: LearningRateSpec
    device: torch.device
    weights: Mapping[str, str]
    """By name, digests of the model's tensors before training."""
    origins: Origins = field(default_factory=Origins)
    """Files that were loaded in place of those that the config names."""
    warnings: tuple[str, ...] = ()
    """A sentence for each input that changed since the run was prepared."""

    @property
    def model(self) -> LoadedModel:
        """The model before training."""
        return self.task.model

    @property
    def rows(self) -> Rows:
        """The training rows."""
        return self.task.rows

    def stream(self, granularity: Granularity) -> DataStream:
        """The training batches, with one data weight a token or a document."""
        per_token = granularity == "token"
        return DataStream(
            self.task.dataset,
            self.config.training.batch_size,
            device=self.device,
            weight_shape=self.rows.document_ids.shape if per_token else (self.documents,),
            order=self.order,
        )

    def with_micro_batch(self, rows: int) -> "PreparedRun":
        """The same run with ``rows`` rows of each rank differentiated at a time."""
        return replace(self, trainer=self.trainer.with_micro_batch(rows))

    @property
    def start(self) -> TrainState:
        """s_0, a new copy at each call, so that training can free it."""
        loss = self.trainer.loss
        return self.trainer.step.start(loss.parameters(), loss.buffers())

    @property
    def training(self) -> TrainingProfile:
        """The training as the cost model measures it, with a new copy of s_0."""
        stream = self.stream("token" if self.config.has_tokens else "document")
        return TrainingProfile(self.trainer.step, self.start, stream)

    def learning_rate(self, step: int) -> float:
        """The learning rate of update ``step``."""
        return self.config.training.optimizer.learning_rate * self.rate.factor(step)
