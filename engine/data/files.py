"""Reading one local data file as a table in which the text is exactly what the file holds.

The files are read here and not by the loaders of ``datasets``, because those guess types from the
values: a JSON text that looks like a date comes back rewritten as a timestamp, and the CSV text
``NA`` as a missing value. Nothing is cached, so an edited file is never served stale.
"""

import codecs
import csv
import gzip
import io
import json
import sys
import zlib
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
READ_ERRORS = (OSError, ValueError, EOFError, zlib.error)

# UTF-32's begins like UTF-16's, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CSV_BLOCK = 2**20, 2**30
"""Least and most bytes that Arrow reads at a time: a field must lie within two such blocks."""


class FileTable(NamedTuple):
    """A file's columns, and for each of its rows the number it has in the file, from 0."""

    columns: pa.Table
    source_rows: NDArray[np.int64]


def is_data_file(path: str) -> bool:
    """Whether a path ends like one of the formats that :func:`read_file` reads."""
    return _suffix(path) in _READERS


def read_file(path: Path, text_columns: tuple[str, ...]) -> FileTable:
    """Read a data file; values of ``text_columns`` are never taken for anything but text.

    A text column in which only some values are strings has nulls in place of the others. Text is
    UTF-8, or what the file's byte-order mark says.

    Raises:
        OSError, ValueError, EOFError, zlib.error: the file cannot be read as its suffix says.
    """
    found = _READERS[_suffix(path.name)](path, text_columns)
    names = found.columns.column_names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two columns are called {twice!r}: rename one of them")
    return found


def line_numbers(path: Path, source_rows: list[int]) -> list[int] | None:
    """The lines on which rows of a data file begin, from 1; None in a format without lines.

    The file is read once more: only messages need it.
    """
    suffix = _suffix(path.name)
    try:
        if suffix == ".txt":
            return [row + 1 for row in source_rows]
        if suffix == ".csv":
            starts = _csv_lines(_decoded(path))
        elif suffix in (".json", ".jsonl") and not (text := _text_of(path)).lstrip().startswith(
            "["
        ):
            starts = [n for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
        else:
            return None
        return [starts[row] for row in source_rows]
    except (*READ_ERRORS, IndexError):
        return None


def is_storable(kind: pa.DataType) -> bool:
    """Whether a run folder, which keeps its documents in Parquet, can hold values of a type.

    Parquet has no object without keys, and what is nested too deeply is written but never read.
    """
    content = io.BytesIO()
    try:
        pyarrow.parquet.write_table(pa.table({"": pa.array([], kind)}), content)
        pyarrow.parquet.read_schema(content)
    except (OSError, pa.ArrowException):
        return False
    return True


def as_json(values: list[Any]) -> pa.Array:
    """Values of any kind as their JSON texts."""
    texts = [None if v is None else json.dumps(v, default=str) for v in values]
    return pa.array(texts, pa.string())


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
    text = _decoded(path)
    if text.count('"') % 2:
        _check_quotes(text)
    content = text.encode()
    as_text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(text_columns, pa.string()))
    quoted = pyarrow.csv.ParseOptions(newlines_in_values=True)
    # Types are guessed from the first block, so that is the whole file; one thread knows the number
    # of a row that is wrong.
    size = min(max(len(content), _CSV_BLOCK[0]), _CSV_BLOCK[1])
    options = pyarrow.csv.ReadOptions(use_threads=False, block_size=size)
    source = pa.BufferReader(content)
    return _numbered(pyarrow.csv.read_csv(source, options, quoted, as_text))


def _check_quotes(text: str) -> None:
    """Refuse a quotation mark that is never closed: Arrow reads on to the end of the file."""
    csv.field_size_limit(sys.maxsize)
    rows, line = csv.reader(io.StringIO(text, newline=""), strict=True), 0
    try:
        for _ in rows:
            line = rows.line_num
    except csv.Error as error:
        # Of what else is not strictly csv, Arrow decides.
        if "unexpected end" in str(error):
            raise ValueError(f"line {line + 1} opens a quotation mark that is not closed") from None


def _csv_lines(text: str) -> list[int]:
    """The lines, from 1, on which the rows below the header begin; blank ones are no rows."""
    starts, inside = [], False
    for number, line in enumerate(_with_line_feeds(text).split("\n"), start=1):
        if not inside and line:
            starts.append(number)
        inside ^= line.count('"') % 2 == 1
    return starts[1:]


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
    return _with_line_feeds(_decoded(path))


def _with_line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _decoded(path: Path) -> str:
    """A file's text, its line ends as they are.

    Raises:
        ValueError: naming the line that cannot be decoded.
    """
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    with opened(path, "rb") as file:
        content = bytes(file.read())
    mark, encoding = next((m for m in _MARKS if content.startswith(m[0])), (b"", "utf-8"))
    content = content.removeprefix(mark)
    if not mark and b"\0" in content[:4]:
        raise ValueError("it looks like UTF-16 without a byte-order mark: save it as UTF-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = 1 + content[: error.start].decode(encoding, "replace").count("\n")
        name = encoding.upper().removesuffix("-LE").removesuffix("-BE")
        raise ValueError(
            f"line {line} of {path.name} is not {name} ({error.reason}): save it as UTF-8"
        ) from None


def _json_objects(text: str) -> list[dict[str, Any]]:
    """The objects of one JSON array, or of one object a line."""
    if text.lstrip().startswith("["):
        objects = _parsed(text, "its array")
        for number, one in enumerate(objects, start=1):
            if not isinstance(one, dict):
                raise ValueError(f"item {number} of its array is not a JSON object")
        return list(objects)
    objects = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        one = _parsed(line, f"line {number}")
        if not isinstance(one, dict):
            raise ValueError(f"line {number} is not a JSON object")
        objects.append(one)
    return objects


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        place = where if where.startswith("line") else f"line {error.lineno}"
        raise ValueError(f"{place} is not JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply to be read") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has two values called {twice!r}: rename one of them")
    return found


def _json_column(values: list[Any], is_text: bool) -> pa.Array:
    """Values of one type as they are; text keeps its strings only; a mixture is kept as JSON."""
    if is_text and any(isinstance(value, str) for value in values):
        return _texts([v if isinstance(v, str) else None for v in values])
    try:
        column = pa.array(values)
    except (pa.ArrowException, OverflowError, ValueError):
        return as_json(values)
    return column if is_storable(column.type) else as_json(values)


def _texts(values: list[str | None]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        number = next(n for n, v in enumerate(values, start=1) if v and not _is_unicode(v))
        raise ValueError(
            f"the text of row {number} holds half of a surrogate pair, which is no character: "
            "remove it"
        ) from None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_READERS: dict[str, Callable[[Path, tuple[str, ...]], FileTable]] = {
    ".jsonl": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".txt": _read_txt,
    ".parquet": _read_parquet,
}
