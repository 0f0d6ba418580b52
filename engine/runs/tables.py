"""The tables of a run: documents, rows and queries, as parquet files and Zarr arrays."""

import io
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.runs.arrays import create_array, open_array, read, rows_per_chunk
from engine.runs.atomic import write_atomically
from engine.runs.checksummed import verify
from engine.runs.errors import RunError
from engine.runs.safe_open import check_regular

RESERVED = ("id", "source_row", "text", "cut_tokens", "text_end")
"""Column names of ``documents.parquet``; columns of a data set with such a name are renamed.
``text`` is missing if the documents are prompts with completions."""
_GROUP_BYTES = 2**19
_GROUP_ROWS = 64, 65536
"""Least and greatest number of documents in a row group."""


def write_documents(
    path: Path,
    columns: Any,
    text_columns: tuple[str, ...],
    rows: Any,
    cut: Mapping[str, Any] | None = None,
) -> None:
    """Write ``documents.parquet``: id, text (or prompt, completion), source_row, other columns.

    Args:
        path: the file to write.
        columns: pyarrow table of all the data set's columns.
        text_columns: the one or two that are tokenised.
        rows: (documents,) the row of each document in the data set.
        cut: ``cut_tokens`` and ``text_end`` of each document, if some are cut.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("text",) if len(text_columns) == 1 else ("prompt", "completion")
    arrays = {"id": pa.array(range(len(rows)), pa.int64())}
    arrays |= {new: columns.column(old) for new, old in zip(names, text_columns, strict=True)}
    arrays["source_row"] = pa.array(rows, pa.int64())
    arrays |= {name: pa.array(values, pa.int64()) for name, values in (cut or {}).items()}
    for name in columns.column_names:
        if name not in text_columns:
            arrays[renamed(name, (*arrays, *RESERVED))] = columns.column(name)
    table = pa.table(arrays)
    # A reader decodes whole row groups, so small ones let it show a few documents quickly.
    fitting = _GROUP_BYTES * table.num_rows // max(1, table.nbytes)
    size = min(max(fitting, _GROUP_ROWS[0]), _GROUP_ROWS[1])
    pq.write_table(table, path, row_group_size=size, write_page_checksum=True)


def renamed(name: str, taken: Collection[str]) -> str:
    """The name of a data set's column in ``documents.parquet``: prefixed if it is taken."""
    while name in taken:
        name = f"data_{name}"
    return name


def read_table(path: Path, columns: list[str] | None = None) -> Any:
    """A parquet table.

    Raises:
        RunError: if it cannot be read.
    """
    import pyarrow.parquet as pq

    verify(path)
    try:
        # pq.read_table would load pyarrow.dataset, which loads pandas.
        with pq.ParquetFile(check_regular(path), page_checksum_verification=True) as file:
            return file.read(columns=columns)
    except Exception as error:
        raise RunError(f"{path} is missing or damaged ({type(error).__name__})") from None


def column_names(path: Path) -> list[str]:
    """The columns of a parquet table.

    Raises:
        RunError: if it cannot be read.
    """
    import pyarrow.parquet as pq

    verify(path)
    try:
        return list(pq.read_schema(path).names)
    except Exception as error:
        raise RunError(f"{path} is missing or damaged ({type(error).__name__})") from None


class RowTable:
    """Read access to ``rows.zarr``."""

    def __init__(self, store: Path) -> None:
        """Open the store; arrays load on first use."""
        self.store = store
        self._arrays: dict[str, Any] = {}

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self._array("document_ids").shape[0])

    @property
    def tokens(self) -> int:
        """Positions of a row."""
        return int(self._array("document_ids").shape[1])

    def input_ids(self, rows: Any = slice(None)) -> NDArray[np.int32]:
        """Token ids (row, token)."""
        return self._read("input_ids", rows)

    def document_ids(self, rows: Any = slice(None)) -> NDArray[np.int64]:
        """The document of every token, (row, token), ascending; -1 on padding."""
        return self._read("document_ids", rows)

    def targets(self, rows: Any = slice(None)) -> NDArray[np.bool_]:
        """Whether a loss is taken at a position, (row, token)."""
        return self._read("targets", rows).astype(np.bool_)

    def steps(self, rows: Any = slice(None)) -> NDArray[np.int32]:
        """The step at which a row was used in each epoch, (row, epoch)."""
        return self._read("steps", rows)

    @property
    def has_tokens(self) -> bool:
        """Whether rows consist of tokens; otherwise each row is one document."""
        return (self.store / "input_ids").is_dir()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All stored arrays except ``steps``, by name."""
        names = sorted(path.name for path in self.store.iterdir() if path.is_dir())
        return {name: self._read(name, slice(None)) for name in names if name != "steps"}

    def _read(self, name: str, selection: Any) -> NDArray[Any]:
        return read(self._array(name), selection, self.store)

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            self._arrays[name] = open_array(self.store, name)
        return self._arrays[name]


def write_rows(
    store: Path,
    input_ids: NDArray[np.int32],
    document_ids: NDArray[np.int64],
    targets: NDArray[np.bool_],
    steps: NDArray[np.int32],
) -> None:
    """Write ``rows.zarr`` of tokens: see :class:`RowTable` for the shapes."""
    rows: dict[str, NDArray[Any]] = {"input_ids": input_ids, "document_ids": document_ids}
    write_arrays(store, {**rows, "targets": targets, "steps": steps})


def write_arrays(store: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write ``rows.zarr`` of any arrays, (row, …) each."""
    for name, given in arrays.items():
        # A boolean has no spare value to mark entries that were never written.
        values = given.astype(np.uint8) if given.dtype == np.bool_ else given
        per_row = values.shape[1:]
        size = int(np.prod(per_row)) * values.dtype.itemsize
        chunks = (rows_per_chunk(size), *per_row)
        array = create_array(store, name, values.shape, values.dtype, chunks)
        array[...] = values


def write_queries(path: Path, columns: dict[str, list[Any]]) -> None:
    """Write ``queries.parquet`` atomically; values without a common type are written as JSON."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: _column(values) for name, values in columns.items()})
    content = io.BytesIO()
    pq.write_table(table, content, write_page_checksum=True)
    write_atomically(path, content.getvalue())


def _column(values: list[Any]) -> Any:
    import pyarrow as pa

    try:
        column = pa.array(values)
    except (pa.ArrowException, OverflowError):
        column = None
    # Parquet cannot store an object without keys.
    if column is None or "struct<>" in str(column.type):
        return pa.array([None if v is None else json.dumps(v, default=str) for v in values])
    return column
