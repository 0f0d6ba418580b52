"""Tasks: the interface that the worker uses, and the base class for a user's own task."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.data.examples import Columns, Examples
from engine.data.sources import Documents
from engine.models.load import LoadedModel
from engine.runs.config import RunConfig, SourceConfig
from engine.tasks.user_code import Copy
from engine.training.data_stream import RowSource


@dataclass(frozen=True)
class Origins:
    """Stored copies that a prepared run is loaded from in place of its config's sources."""

    model_files: Path | None = None
    """The folder with the model's config and tokenizer; None: the model's own folder."""
    commit: str | None = None
    """For a hub model: the commit of its revision when the run was prepared."""
    code: Mapping[str, Copy] = field(default_factory=dict)
    """Copies of the files of a user's own task, by module."""


class Rows(Protocol):
    """The rows of a training."""

    @property
    def document_ids(self) -> NDArray[np.int64]:
        """(rows, positions) The document that each position belongs to, -1 for padding."""

    @property
    def lengths(self) -> NDArray[np.int32]:
        """(rows,) The number of positions of each row that are not padding."""

    def __len__(self) -> int:
        """The number of rows."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays to store, (rows, …) each, by name."""


@dataclass(frozen=True)
class QueryDocument:
    """The document of a query: φ is the mean of its losses."""

    text: str
    inputs: dict[str, NDArray[Any]]
    """The model's input, one row, by column."""
    losses: int
    """The number of losses."""
    columns: dict[str, Any]
    """Its other columns in the data set."""
    tokens: dict[str, Any] = field(default_factory=dict)
    """For a text: ``input_ids``, ``targets``, ``cut_tokens`` (the number of tokens cut off) and
    ``text_end`` (the number of characters that the model reads; None if nothing is cut)."""


class Task(Protocol):
    """A config's model and rows, and the reader of its queries."""

    @property
    def model(self) -> LoadedModel:
        """The model before training."""

    @property
    def rows(self) -> Rows:
        """The training rows."""

    @property
    def dataset(self) -> RowSource:
        """The training rows, for a stream."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; None if the task has no tokens."""

    def read(self, source: SourceConfig, where: str) -> list[QueryDocument]:
        """The documents of a source of queries.

        Raises:
            UsageError: if they cannot be used.
        """

    def read_texts(self, documents: Documents) -> list[QueryDocument]:
        """Query documents of texts from the command line.

        Raises:
            UsageError: if they cannot be used, or the task has no texts.
        """


@dataclass(frozen=True)
class Prepared:
    """The task of a new run, and the documents of its rows."""

    task: Task
    documents: Documents


class ExampleTask(ABC):
    """Base class of a user's own task: reads examples, builds a model, computes losses.

    ``task: module:object`` in a config names a subclass without constructor arguments, or an
    instance of one. Results must depend on the arguments alone, so that a run can be repeated.
    """

    @abstractmethod
    def read_data(self, source: SourceConfig, where: str) -> Examples:
        """The examples of ``data``, ``queries`` or ``queries.contrast``.

        Args:
            source: its section of the config.
            where: the key of that section, for messages.

        Raises:
            UsageError: in one sentence, if it cannot be read.
        """

    @abstractmethod
    def build_model(self, config: RunConfig, columns: Columns) -> nn.Module:
        """The untrained model; torch's generator is seeded with the run's seed.

        Args:
            config: the run's config; ``config.model.options`` is free for the task.
            columns: the training data, (examples, …) each.
        """

    @abstractmethod
    def losses(self, model: nn.Module, columns: dict[str, Tensor]) -> Tensor:
        """(examples,) The training losses, twice differentiable; the model is in train mode.

        Args:
            model: the model, with the parameters of the step.
            columns: a batch, (examples, …) each.
        """

    def measure(self, model: nn.Module, columns: dict[str, Tensor]) -> Tensor:
        """(examples,) The measurement φ of a query; by default its training loss.

        The model is in eval mode.
        """
        return self.losses(model, columns)
