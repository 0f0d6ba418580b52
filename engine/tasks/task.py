"""What the worker asks of a task, whatever it trains."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.data.sources import Documents
from engine.models.loaded import LoadedModel
from engine.runs.config import SourceConfig
from engine.tasks.own_code import Copy
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
class AskedDocument:
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

    def read(self, source: SourceConfig, where: str) -> list[AskedDocument]:
        """The documents of a source that is asked about.

        Raises:
            UsageError: for whatever is wrong with them.
        """

    def typed(self, documents: Documents) -> list[AskedDocument]:
        """Texts that were given as they are.

        Raises:
            UsageError: for whatever is wrong with them, or if the task has no texts.
        """


@dataclass(frozen=True)
class Prepared:
    """A task made ready for a new run, and the documents that its rows are made of."""

    task: Task
    documents: Documents
