"""Examples without tokens, such as images: each is a document and a row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]
_COLUMN = "column_"


@dataclass(frozen=True)
class Examples:
    """The examples of one source.

    Attributes:
        columns: the model's inputs, (examples, …) each, integers or floating-point numbers.
        texts: a description of each example for lists: "an image, label 7, row 412".
        source_rows: (examples,) the row of each in its source, from 0.
        facts: other columns to store with the examples.
    """

    columns: Columns
    texts: list[str]
    source_rows: NDArray[np.int64]
    facts: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in self.columns.items():
            if len(values) != len(self.texts):
                raise ValueError(f"column {name} has {len(values)} of {len(self.texts)} examples")

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class ExampleRows:
    """Training rows of one example each."""

    columns: Columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """The columns of one row."""
        return {name: values[index] for name, values in self.columns.items()}

    @property
    def document_ids(self) -> NDArray[np.int64]:
        """(rows, 1) The document of each row: document i is row i."""
        return np.arange(len(self), dtype=np.int64)[:, None]

    @property
    def lengths(self) -> NDArray[np.int32]:
        """(rows,) The length of each row: 1."""
        return np.ones(len(self), dtype=np.int32)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays to store."""
        columns = {f"{_COLUMN}{name}": values for name, values in self.columns.items()}
        targets = np.ones((len(self), 1), dtype=np.bool_)
        return {"document_ids": self.document_ids, "targets": targets, **columns}

    @classmethod
    def of(cls, columns: Columns) -> "ExampleRows":
        """Rows of a task's columns.

        8-bit integers and booleans become int16, because they have no spare value to mark missing
        entries in storage.
        """
        narrow = (np.uint8, np.int8, np.bool_)
        return cls({n: v.astype(np.int16) if v.dtype in narrow else v for n, v in columns.items()})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "ExampleRows":
        """The inverse of :meth:`arrays`."""
        names = [name for name in arrays if name.startswith(_COLUMN)]
        return cls({name.removeprefix(_COLUMN): arrays[name] for name in names})
