"""Examples without tokens, such as images: each is a document, and a row of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]
_COLUMN = "column_"


@dataclass(frozen=True)
class Examples:
    """What a task reads of one source.

    Attributes:
        columns: what the model is given, (examples, …) each, integers or floating-point numbers.
        texts: what stands for each example where it is listed: "an image, label 7, row 412".
        source_rows: (examples,) the number of each in its source, from 0.
        facts: what else is kept of each, for whoever reads the results.
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
    """Rows of one example each, as a training takes them."""

    columns: Columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """The columns of one row."""
        return {name: values[index] for name, values in self.columns.items()}

    @property
    def document_ids(self) -> NDArray[np.int64]:
        """(rows, 1) The document of each row: the one of its number."""
        return np.arange(len(self), dtype=np.int64)[:, None]

    @property
    def lengths(self) -> NDArray[np.int32]:
        """(rows,) All are equally long."""
        return np.ones(len(self), dtype=np.int32)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is kept of them."""
        kept = {f"{_COLUMN}{name}": values for name, values in self.columns.items()}
        targets = np.ones((len(self), 1), dtype=np.bool_)
        return {"document_ids": self.document_ids, "targets": targets, **kept}

    @classmethod
    def of(cls, columns: Columns) -> "ExampleRows":
        """Rows of a task's columns.

        Bytes and truth values are widened: among them no value is left that could stand, on disk,
        for one that was never written.
        """
        narrow = (np.uint8, np.int8, np.bool_)
        return cls({n: v.astype(np.int16) if v.dtype in narrow else v for n, v in columns.items()})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "ExampleRows":
        """The inverse of :meth:`arrays`."""
        names = [name for name in arrays if name.startswith(_COLUMN)]
        return cls({name.removeprefix(_COLUMN): arrays[name] for name in names})
