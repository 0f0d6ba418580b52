"""A task of examples as the worker uses it: each row, document and query is one example."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.data.examples import Columns, ExampleRows, Examples
from engine.data.sources import Documents
from engine.models.load import (
    LoadedModel,
    check_dropout,
    frozen_parameters,
)
from engine.runs.config import ModelConfig, RunConfig, SourceConfig
from engine.runs.errors import UsageError
from engine.tasks.task import ExampleTask, Prepared, QueryDocument

PerExample = Callable[[nn.Module, dict[str, Tensor]], Tensor]


class ExampleLoss(nn.Module):
    """(1/D) Σ w·ℓ over a batch of examples; in eval mode ℓ is the task's measurement.

    Parameters and buffers keep the model's names under ``model.``.
    """

    def __init__(self, model: nn.Module, losses: PerExample, measure: PerExample) -> None:
        """Both functions map the model and a batch's columns to one number per example."""
        super().__init__()
        self.model = model
        self.losses = losses
        self.measure = measure

    def forward(self, example_weight: Tensor, num_items_in_batch: int, **columns: Any) -> Tensor:
        """The weighted loss of a batch: a scalar.

        Args:
            example_weight: (examples,) data weights.
            num_items_in_batch: D, what the sum is divided by.
            columns: (examples, …) the model's inputs.

        Raises:
            UsageError: if the task does not return one number per example.
        """
        function = self.losses if self.training else self.measure
        values = function(self.model, columns)
        if values.shape != example_weight.shape:
            raise UsageError(
                f"task: {getattr(function, '__qualname__', function)} returns a tensor of shape "
                f"{tuple(values.shape)} for {len(example_weight)} examples; return one number each"
            )
        return torch.dot(example_weight, values) / num_items_in_batch


@dataclass(frozen=True)
class ExampleRun:
    """The task of a config, with its model and its examples."""

    of: ExampleTask
    config: RunConfig
    model: LoadedModel
    rows: ExampleRows

    @classmethod
    def prepare(cls, of: ExampleTask, config: RunConfig, device: torch.device) -> Prepared:
        """Read a config's examples and build its model.

        Raises:
            UsageError: if the data or the model cannot be used.
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
    ) -> "ExampleRun":
        """The task of a prepared run, from its stored rows."""
        rows = ExampleRows.from_arrays(arrays)
        return cls(of, config, _load(of, config, rows.columns, device), rows)

    @property
    def dataset(self) -> ExampleRows:
        """The rows, for a stream."""
        return self.rows

    @property
    def tokenizer(self) -> None:
        """None: examples have no tokens."""
        return None

    def read(self, source: SourceConfig, where: str) -> list[QueryDocument]:
        """The examples of a source of queries."""
        examples = self.of.read_data(source, where)
        rows = ExampleRows.of(examples.columns)
        self._check_columns(rows, where)
        return [
            QueryDocument(
                text=examples.texts[index],
                inputs={name: np.asarray(values) for name, values in rows[index].items()},
                losses=1,
                columns={name: values[index] for name, values in examples.facts.items()},
            )
            for index in range(len(examples))
        ]

    def read_texts(self, documents: Documents) -> list[QueryDocument]:
        """Not supported: examples are not texts.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"--text: the task {self.config.task} has no text queries; give --queries with data "
            "like the training's"
        )

    def _check_columns(self, rows: ExampleRows, where: str) -> None:
        for name, ours in self.rows.columns.items():
            theirs = rows.columns.get(name)
            if theirs is None or theirs.shape[1:] != ours.shape[1:]:
                shape = "is missing" if theirs is None else f"has {theirs.shape[1:]}"
                raise UsageError(
                    f"{where}: {name} has shape {ours.shape[1:]} in the training data, but here it "
                    f"{shape}; give data of the same kind"
                )

    def _check_model(self) -> None:
        if not any(p.requires_grad for p in self.model.loss.parameters()):
            raise UsageError(
                f"task: the model of {self.config.task} has no trainable parameter; leave some "
                "with requires_grad"
            )


def _load(
    of: ExampleTask, config: RunConfig, columns: Columns, device: torch.device
) -> LoadedModel:
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = of.build_model(config, columns)
    if config.model.dropout == 0:
        _clear_dropout(model)
    dropout = check_dropout(model, config.model.path, forced="dropout" in config.force)
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
