"""Read the documents of a config's source, and check its text columns."""

import difflib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.data.files import as_json, is_data_file, is_storable, line_numbers
from engine.data.splits import listed, open_splits, select
from engine.runs.config import SourceConfig
from engine.runs.errors import UsageError

_FEW = 3
"""The most documents that a message names."""


@dataclass(frozen=True)
class Cut:
    """How documents are cut to the sequence length; (documents,) each.

    Attributes:
        cut_tokens: the number of tokens of each that are cut off.
        text_end: the number of characters of each that the model reads, of prompt and completion
            joined; None if nothing is cut.
    """

    cut_tokens: list[int]
    text_end: list[int | None]


@dataclass(frozen=True)
class Documents:
    """The documents of one source, with all columns of its data set.

    Attributes:
        columns: one row per document.
        text_columns: the column of text, or those of the prompt and its completion.
        source_rows: (documents,) the number of each document's row in its file or split, from 0.
        path: the source's path; empty for texts from the command line.
        cut: how they are cut; None if none is.
        facts: counts of skipped and cut documents, for the record.
        warnings: sentences for the user.
    """

    columns: pa.Table
    text_columns: tuple[str, ...]
    source_rows: NDArray[np.int64]
    path: str = ""
    cut: Cut | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        """The number of documents."""
        return int(self.columns.num_rows)

    def texts(self, index: int) -> tuple[str, ...]:
        """One document's text, or its prompt and completion; empty where missing."""
        return tuple(str(self.columns[name][index].as_py() or "") for name in self.text_columns)

    def has_text(self, index: int) -> bool:
        """Whether no text of a document is missing."""
        return all(self.columns[name][index].is_valid for name in self.text_columns)

    def only(self, chosen: list[int]) -> "Documents":
        """The chosen documents, in their order."""
        mask = np.zeros(len(self), np.bool_)
        mask[chosen] = True
        # Filtering works chunk by chunk; taking rows by number would join all text of a column.
        columns = self.columns.filter(pa.array(mask))
        return replace(self, columns=columns, source_rows=self.source_rows[mask])

    def locations(self, documents: list[int]) -> str:
        """The locations of the first few of some documents: ``lines 2, 5 and 9 of train.jsonl``."""
        first = documents[:_FEW]
        path = Path(self.path).expanduser()
        rows = [int(self.source_rows[index]) for index in first]
        lines = line_numbers(path, rows) if is_data_file(self.path) and path.is_file() else None
        unit = "text" if not self.path else "row" if lines is None else "line"
        numbers = [str(number) for number in lines or [row + 1 for row in rows]]
        if len(documents) > _FEW:
            listing = ", ".join([*numbers, "…"])
        else:
            listing = " and ".join(filter(None, (", ".join(numbers[:-1]), numbers[-1])))
        of = f" of {path.name}" if self.path else ""
        return f"{unit}{'s' if len(documents) > 1 else ''} {listing}{of}"


def read_documents(source: SourceConfig, where: str) -> Documents:
    """Read the documents of a source.

    Args:
        source: what to read; a local path is one that exists or that looks like a file.
        where: the config key of the source, such as ``data`` or ``queries.contrast``.

    Raises:
        UsageError: if there is no such data set, split or column, or a column is not text.
    """
    splits = open_splits(source, where)
    columns, source_rows = select(splits, source.split, where)
    columns = _storable(columns, where)
    for role, name in _text_roles(source):
        key = f"{where}.{role}"
        _check_present(columns, name, key)
        columns = _as_strings(columns, name)
        _check_text(columns[name], name, key)
    return Documents(columns, source.columns, source_rows, source.path)


def _storable(columns: pa.Table, where: str) -> pa.Table:
    """The columns as a run stores them: values that Parquet cannot store become JSON."""
    for index, name in enumerate(columns.column_names):
        column = columns.column(index)
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            reason = str(error).splitlines()[0].rpartition(": ")[2]
            raise UsageError(
                f"{where}.path: column {name!r} is damaged ({reason}); write the data set again"
            ) from None
        if pa.types.is_string_view(column.type):
            columns = columns.set_column(index, name, column.cast(pa.large_string()))
        elif not is_storable(column.type):
            columns = columns.set_column(index, name, as_json(column.to_pylist()))
    return columns


def _text_roles(source: SourceConfig) -> tuple[tuple[str, str], ...]:
    """The config key and the name of each text column."""
    pair = len(source.columns) == 2
    roles = ("prompt_column", "completion_column") if pair else ("text_column",)
    return tuple(zip(roles, source.columns, strict=True))


def _check_present(columns: pa.Table, name: str, key: str) -> None:
    if name in columns.column_names:
        return
    near = difflib.get_close_matches(name, columns.column_names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "name one of them."
    raise UsageError(
        f"{key}: no column {name!r}; the columns are {listed(columns.column_names)}; {hint}"
    )


def _as_strings(columns: pa.Table, name: str) -> pa.Table:
    """The table with a dictionary-encoded column of strings decoded."""
    column = columns[name]
    if not pa.types.is_dictionary(column.type):
        return columns
    return columns.set_column(
        columns.column_names.index(name), name, column.cast(column.type.value_type)
    )


def _check_text(column: pa.ChunkedArray, name: str, key: str) -> None:
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise UsageError(
            f"{key}: column {name!r} contains {kind}, not text; name a column of strings or "
            "convert it."
        )
