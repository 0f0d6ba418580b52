"""The documents that a config names, and the checks of the columns that hold their text."""

import difflib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.contract.config import SourceConfig
from engine.contract.errors import UsageError
from engine.data.files import as_json, is_storable
from engine.data.splits import listed, open_splits, select


@dataclass(frozen=True)
class Documents:
    """The documents of one source, with every column that its data set has.

    Attributes:
        columns: one row a document.
        text_columns: the column of text, or those of the prompt and its completion.
        source_rows: (documents,) the number of each document's row in its file or split, from 0.
    """

    columns: pa.Table
    text_columns: tuple[str, ...]
    source_rows: NDArray[np.int64]

    def __len__(self) -> int:
        """The number of documents."""
        return int(self.columns.num_rows)

    def texts(self, index: int) -> tuple[str, ...]:
        """One document's text, or its prompt and its completion."""
        return tuple(str(self.columns[name][index].as_py()) for name in self.text_columns)


def read_documents(source: SourceConfig, where: str) -> Documents:
    """Read the documents of a source.

    Args:
        source: what to read; a local path is one that exists or that looks like a file.
        where: the config key of the source, such as ``data`` or ``queries.contrast``.

    Raises:
        UsageError: there is no such data set, split or column, or a document has no text.
    """
    splits = open_splits(source, where)
    columns, source_rows = select(splits, source.split, where)
    columns = _as_kept(columns, where)
    for role, name in _text_roles(source):
        key = f"{where}.{role}"
        _check_present(columns, name, key)
        columns = _as_strings(columns, name)
        _check_text(columns[name], name, source_rows, key)
    return Documents(columns, source.columns, source_rows)


def _as_kept(columns: pa.Table, where: str) -> pa.Table:
    """The columns as a run keeps them: what Parquet cannot hold as JSON."""
    for index, name in enumerate(columns.column_names):
        column = columns.column(index)
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            reason = str(error).splitlines()[0].rpartition(": ")[2]
            raise UsageError(
                f"{where}.path: column {name!r} is damaged ({reason}); write the data set again"
            ) from None
        if not is_storable(column.type):
            columns = columns.set_column(index, name, as_json(column.to_pylist()))
    return columns


def _text_roles(source: SourceConfig) -> tuple[tuple[str, str], ...]:
    """The config key and the name of each column that is tokenised."""
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
    """The table with a dictionary-encoded column of strings written out."""
    column = columns[name]
    if not pa.types.is_dictionary(column.type):
        return columns
    return columns.set_column(
        columns.column_names.index(name), name, column.cast(column.type.value_type)
    )


def _check_text(
    column: pa.ChunkedArray, name: str, source_rows: NDArray[np.int64], key: str
) -> None:
    kind = column.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (is_text or pa.types.is_string_view(kind) or pa.types.is_null(kind)):
        raise UsageError(
            f"{key}: column {name!r} holds {kind}, not text; name a column of strings or "
            "convert it."
        )
    if column.null_count:
        first = column.is_null().index(pa.scalar(True)).as_py()
        raise UsageError(
            f"{key}: row {source_rows[first]} (from 0) has no text in column {name!r}, "
            f"{column.null_count} in all have none; fill in strings or remove the rows."
        )
