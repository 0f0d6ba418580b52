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
    """What a prepared run is loaded from in place of what its config names now."""

    model_files: Path | None = None
    """The folder that the model's config and tokenizer are read from; None: the model's own."""
    commit: str | None = None
    """Of a model of the hub: what its revision meant when the run was prepared."""
    code: Mapping[str, Copy] = field(default_factory=dict)
    """By module, the files of a task of one's own that are read from copies."""


class Rows(Protocol):
    """The rows of a training."""

    @property
    def document_ids(self) -> NDArray[np.int64]:
        """(rows, positions) The document that each position belongs to, -1 for padding."""

    @property
    def lengths(self) -> NDArray[np.int32]:
        """(rows,) The number of positions of each that are no padding."""

    def __len__(self) -> int:
        """How many there are."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is kept of them, (rows, …) each, by name."""


@dataclass(frozen=True)
class QueryDocument:
    """A document that is asked about: φ is the mean of its losses."""

    text: str
    inputs: dict[str, NDArray[Any]]
    """The one row that the model is given, by column."""
    losses: int
    """How many there are to take the mean of."""
    columns: dict[str, Any]
    """What else its data set says of it."""
    tokens: dict[str, Any] = field(default_factory=dict)
    """If it has tokens: ``input_ids``, ``targets``, and where the model's text ends:
    ``cut_tokens`` (how many follow) and ``text_end`` (its characters; None if it is not cut)."""


class Task(Protocol):
    """A config's model and rows, and how what is asked becomes documents of the same kind."""

    @property
    def model(self) -> LoadedModel:
        """The model as it is before training."""

    @property
    def rows(self) -> Rows:
        """What it is trained on."""

    @property
    def dataset(self) -> RowSource:
        """The same as a stream takes them."""

    @property
    def tokenizer(self) -> Any:
        """What texts are made tokens with; None without tokens."""

    def read(self, source: SourceConfig, where: str) -> list[QueryDocument]:
        """The documents of a source that is asked about.

        Raises:
            UsageError: for whatever is wrong with them.
        """

    def read_texts(self, documents: Documents) -> list[QueryDocument]:
        """Texts that were given as they are.

        Raises:
            UsageError: for whatever is wrong with them, or if the task has no texts.
        """


@dataclass(frozen=True)
class Prepared:
    """A task made ready for a new run, and the documents that its rows are made of."""

    task: Task
    documents: Documents


class ExampleTask(ABC):
    """How examples are read, which model is trained on them, and what is measured.

    ``task: module:object`` in a config names a subclass that takes no arguments, or an object of
    one. Everything has to be a function of the arguments alone, or a run could not be repeated.
    """

    @abstractmethod
    def read_data(self, source: SourceConfig, where: str) -> Examples:
        """The examples of ``data``, ``queries`` or ``queries.contrast``.

        Args:
            source: what the config says of it.
            where: its key, for messages.

        Raises:
            UsageError: in one sentence, for whatever is wrong with it.
        """

    @abstractmethod
    def build_model(self, config: RunConfig, columns: Columns) -> nn.Module:
        """The untrained model, its weights drawn from torch's generator, which is seeded.

        Args:
            config: of the run; ``config.model.options`` is free for the task.
            columns: those of the training data, (examples, …) each.
        """

    @abstractmethod
    def losses(self, model: nn.Module, columns: dict[str, Tensor]) -> Tensor:
        """(examples,) The training loss of each, twice differentiable; the model is in train mode.

        Args:
            model: with the parameters of the step.
            columns: (examples, …) of a batch.
        """

    def measure(self, model: nn.Module, columns: dict[str, Tensor]) -> Tensor:
        """(examples,) What is asked about: φ of a query, unless overridden its training loss.

        The model is in eval mode.
        """
        return self.losses(model, columns)
