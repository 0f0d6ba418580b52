"""A run made ready to compute: its task, stream and trainer."""

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
    """Everything that the three phases of a run need."""

    config: RunConfig
    task: Task
    documents: int
    order: list[Any]
    trainer: Trainer
    rate: LearningRateSpec
    device: torch.device
    weights: Mapping[str, str]
    """By name, digests of what the model's tensors were before training."""
    origins: Origins = field(default_factory=Origins)
    """What was loaded in place of what the config names."""
    warnings: tuple[str, ...] = ()
    """A sentence for each change, since the run was prepared, of what it was made from."""

    @property
    def model(self) -> LoadedModel:
        """The model as it is before training."""
        return self.task.model

    @property
    def rows(self) -> Rows:
        """What it is trained on."""
        return self.task.rows

    def stream(self, granularity: Granularity) -> DataStream:
        """The training's batches, with one weight a token or a document."""
        per_token = granularity == "token"
        return DataStream(
            self.task.dataset,
            self.config.training.batch_size,
            device=self.device,
            weight_shape=self.rows.document_ids.shape if per_token else (self.documents,),
            order=self.order,
        )

    def of_micro_batch(self, rows: int) -> "PreparedRun":
        """The same with so many rows of a rank differentiated at a time."""
        return replace(self, trainer=self.trainer.with_micro_batch(rows))

    @property
    def start(self) -> TrainState:
        """s_0, made anew each time: whoever asks for it can let it go."""
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
