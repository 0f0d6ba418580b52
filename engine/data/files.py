"""Reading one local data file as a table in which the text is exactly what the file holds.

The files are read here and not by the loaders of ``datasets``, because those guess types from the
values: a JSON text that looks like a date comes back rewritten as a timestamp, and the CSV text
``NA`` as a missing value. Nothing is cached, so an edited file is never served stale.
"""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

FORMATS = ".jsonl, .json, .csv, .txt (each also with .gz) or .parquet"

# What reading a damaged or mislabelled file can raise: Arrow's errors and those of JSON and of
# text decoding are ValueErrors, a truncated .gz is an EOFError.
READ_ERRORS = (OSError, ValueError, EOFError)


class FileTable(NamedTuple):
    """A file's columns, and for each of its rows the number it has in the file, from 0."""

    columns: pa.Table
    source_rows: NDArray[np.int64]


def is_data_file(path: str) -> bool:
    """Whether a path ends like one of the formats that :func:`read_file` reads."""
    return _suffix(path) in _READERS


def read_file(path: Path, text_columns: tuple[str, ...]) -> FileTable:
    """Read a data file; values of ``text_columns`` are never taken for anything but text.

    A text column in which only some values are strings has nulls in place of the others.

    Raises:
        OSError, ValueError, EOFError: the file cannot be read as its suffix says.
    """
    return _READERS[_suffix(path.name)](path, text_columns)


def _suffix(path: str) -> str:
    name = Path(path).name.lower()
    plain = Path(name.removesuffix(".gz")).suffix
    return "" if plain == ".parquet" and name.endswith(".gz") else plain


def _numbered(columns: pa.Table) -> FileTable:
    return FileTable(columns, np.arange(columns.num_rows, dtype=np.int64))


def _read_parquet(path: Path, text_columns: tuple[str, ...]) -> FileTable:
    # Not read_table, which would add columns for parent folders that are named like a=b.
    with pyarrow.parquet.ParquetFile(path) as file:
        return _numbered(file.read())


def _read_csv(path: Path, text_columns: tuple[str, ...]) -> FileTable:
    as_text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(text_columns, pa.string()))
    quoted = pyarrow.csv.ParseOptions(newlines_in_values=True)
    return _numbered(pyarrow.csv.read_csv(path, convert_options=as_text, parse_options=quoted))


def _read_txt(path: Path, text_columns: tuple[str, ...]) -> FileTable:
    # Only line ends separate documents: str.splitlines would also cut at form feeds and the like.
    lines = _text_of(path).split("\n")
    kept = [(number, line) for number, line in enumerate(lines) if line.strip()]
    columns = pa.table({"text": pa.array([line for _, line in kept], pa.string())})
    return FileTable(columns, np.array([number for number, _ in kept], dtype=np.int64))


def _read_json(path: Path, text_columns: tuple[str, ...]) -> FileTable:
    objects = _json_objects(_text_of(path))
    names = dict.fromkeys(name for one in objects for name in one)
    return _numbered(
        pa.table(
            {
                name: _json_column([one.get(name) for one in objects], name in text_columns)
                for name in names
            }
        )
    )


def _text_of(path: Path) -> str:
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8-sig") as file:
        return str(file.read())


def _json_objects(text: str) -> list[dict[str, Any]]:
    """The objects of one JSON array, or of one object a line."""
    if text.lstrip().startswith("["):
        objects = json.loads(text)
        for number, one in enumerate(objects):
            if not isinstance(one, dict):
                raise ValueError(f"item {number} of its array is not a JSON object")
        return list(objects)
    objects = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            one = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} is not JSON ({error.msg})") from None
        if not isinstance(one, dict):
            raise ValueError(f"line {number} is not a JSON object")
        objects.append(one)
    return objects


def _json_column(values: list[Any], is_text: bool) -> pa.Array:
    """Values of one type as they are; text keeps its strings only; a mixture is kept as JSON."""
    if is_text and any(isinstance(value, str) for value in values):
        return pa.array([v if isinstance(v, str) else None for v in values], pa.string())
    try:
        column = pa.array(values)
    except (pa.ArrowException, OverflowError):
        column = None
    # Parquet cannot hold an object without keys, and rows of the run folder are kept in Parquet.
    if column is None or "struct<>" in str(column.type):
        column = pa.array([None if v is None else json.dumps(v) for v in values], pa.string())
    return column


_READERS: dict[str, Callable[[Path, tuple[str, ...]], FileTable]] = {
    ".jsonl": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".txt": _read_txt,
    ".parquet": _read_parquet,
}
