"""Tasks of examples as the worker takes them: rows, documents and queries are one example each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from engine.data.examples import Columns, ExampleRows, Examples
from engine.data.sources import Documents
from engine.models.example_loss import ExampleLoss
from engine.models.loaded import (
    LoadedModel,
    frozen_parameters,
    settle_dropout,
)
from engine.runs.config import ModelConfig, RunConfig, SourceConfig
from engine.runs.errors import UsageError
from engine.tasks.example_task import ExampleTask
from engine.tasks.task import AskedDocument, Prepared


@dataclass(frozen=True)
class OfExamples:
    """The task of a config, its model built and its examples read."""

    of: ExampleTask
    config: RunConfig
    model: LoadedModel
    rows: ExampleRows

    @classmethod
    def prepare(cls, of: ExampleTask, config: RunConfig, device: torch.device) -> Prepared:
        """Read the examples of a config, and build its model.

        Raises:
            UsageError: for whatever is wrong with them.
        """
        examples = of.read_data(config.data, "data")
        rows = ExampleRows.of(examples.columns)
        task = cls(of, config, _load(of, config, rows.columns, device), rows)
        task._check_model()
        return Prepared(task, _documents(examples))

    @classmethod
    def restore(
        cls,
        of: ExampleTask,
        config: RunConfig,
        arrays: Mapping[str, NDArray[Any]],
        device: torch.device,
    ) -> "OfExamples":
        """The task of a run whose rows were kept."""
        rows = ExampleRows.from_arrays(arrays)
        return cls(of, config, _load(of, config, rows.columns, device), rows)

    @property
    def dataset(self) -> ExampleRows:
        """The rows as a stream takes them."""
        return self.rows

    @property
    def tokenizer(self) -> None:
        """There are no tokens."""
        return None

    def read(self, source: SourceConfig, where: str) -> list[AskedDocument]:
        """The examples of a source."""
        examples = self.of.read_data(source, where)
        rows = ExampleRows.of(examples.columns)
        self._check_columns(rows, where)
        return [
            AskedDocument(
                text=examples.texts[index],
                inputs={name: np.asarray(values) for name, values in rows[index].items()},
                losses=1,
                columns={name: values[index] for name, values in examples.facts.items()},
            )
            for index in range(len(examples))
        ]

    def typed(self, documents: Documents) -> list[AskedDocument]:
        """Refused: examples are no texts."""
        raise UsageError(
            f"--text: the task {self.config.task} is not asked in texts; give --queries with data "
            "like the training's"
        )

    def _check_columns(self, rows: ExampleRows, where: str) -> None:
        for name, ours in self.rows.columns.items():
            theirs = rows.columns.get(name)
            if theirs is None or theirs.shape[1:] != ours.shape[1:]:
                found = "there is none" if theirs is None else f"{theirs.shape[1:]}"
                raise UsageError(
                    f"{where}: {name} is of shape {ours.shape[1:]} in the training data, here "
                    f"{found}; give data of the same kind"
                )

    def _check_model(self) -> None:
        if not any(p.requires_grad for p in self.model.loss.parameters()):
            raise UsageError(
                f"task: the model of {self.config.task} has no parameter that is trained"
            )


def _load(
    of: ExampleTask, config: RunConfig, columns: Columns, device: torch.device
) -> LoadedModel:
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = of.build_model(config, columns)
    if config.model.dropout == 0:
        _clear_dropout(model)
    dropout = settle_dropout(model, config.model.path, forced="dropout" in config.force)
    loss = ExampleLoss(model, of.losses, of.measure).to(device, _dtype(config.model))
    return LoadedModel(loss.train(), dropout, frozen_parameters(loss))


def _clear_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0


def _dtype(config: ModelConfig) -> torch.dtype:
    return getattr(torch, config.dtype)  # type: ignore[no-any-return]


def _documents(examples: Examples) -> Documents:
    table = pa.table({**examples.facts, "text": examples.texts})
    return Documents(table, ("text",), examples.source_rows)
