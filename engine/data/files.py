"""Read a local data file as a table whose text is exactly the text of the file.

The loaders of ``datasets`` are not used, because they guess types from values: a JSON string that
looks like a date becomes a timestamp, and the CSV text ``NA`` a missing value. Nothing is cached,
so an edited file is read again.
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

# Errors of reading a damaged or mislabelled file. Those of Arrow, JSON and text decoding are
# ValueErrors; a truncated .gz is an EOFError.
READ_ERRORS = (OSError, ValueError, EOFError, zlib.error)

# UTF-32 comes first, because its mark begins like that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CSV_BLOCK = 2**20, 2**30
"""Smallest and largest block that Arrow reads; a field must lie within two blocks."""


class FileTable(NamedTuple):
    """A file's columns, and the number of each row in the file, from 0."""

    columns: pa.Table
    source_rows: NDArray[np.int64]


def is_data_file(path: str) -> bool:
    """Whether a path has the suffix of a format that :func:`read_file` reads."""
    return _suffix(path) in _READERS


def read_file(path: Path, text_columns: tuple[str, ...]) -> FileTable:
    """Read a data file; values of ``text_columns`` are always text.

    If only some values of a text column are strings, the others become null. The encoding is UTF-8,
    or that of the file's byte-order mark.

    Raises:
        OSError, ValueError, EOFError, zlib.error: if the file cannot be read in its format.
    """
    table = _READERS[_suffix(path.name)](path, text_columns)
    names = table.columns.column_names
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise ValueError(f"two columns are called {duplicate!r}: rename one of them")
    return table


def line_numbers(path: Path, source_rows: list[int]) -> list[int] | None:
    """The line on which each row of a data file begins, from 1; None for a format without lines.

    Used in messages only, as it reads the file again.
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
    """Whether values of a type can be stored in Parquet, as the documents of a run are.

    Parquet has no objects without keys, and cannot read types that are nested too deeply.
    """
    content = io.BytesIO()
    try:
        pyarrow.parquet.write_table(pa.table({"": pa.array([], kind)}), content)
        pyarrow.parquet.read_schema(content)
    except (OSError, pa.ArrowException):
        return False
    return True


def as_json(values: list[Any]) -> pa.Array:
    """Values of any type as JSON strings."""
    texts = [None if v is None else json.dumps(v, default=str) for v in values]
    return pa.array(texts, pa.string())


def _suffix(path: str) -> str:
    name = Path(path).name.lower()
    plain = Path(name.removesuffix(".gz")).suffix
    return "" if plain == ".parquet" and name.endswith(".gz") else plain


def _numbered(columns: pa.Table) -> FileTable:
    return FileTable(columns, np.arange(columns.num_rows, dtype=np.int64))


def _read_parquet(path: Path, text_columns: tuple[str, ...]) -> FileTable:
    # Not read_table, which adds columns for parent folders with names like a=b.
    with pyarrow.parquet.ParquetFile(path) as file:
        return _numbered(file.read())


def _read_csv(path: Path, text_columns: tuple[str, ...]) -> FileTable:
    text = _decoded(path)
    if text.count('"') % 2:
        _check_quotes(text)
    content = text.encode()
    as_text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(text_columns, pa.string()))
    quoted = pyarrow.csv.ParseOptions(newlines_in_values=True)
    # Arrow guesses types from the first block, so the block is the whole file. With one thread,
    # errors name the row.
    size = min(max(len(content), _CSV_BLOCK[0]), _CSV_BLOCK[1])
    options = pyarrow.csv.ReadOptions(use_threads=False, block_size=size)
    source = pa.BufferReader(content)
    return _numbered(pyarrow.csv.read_csv(source, options, quoted, as_text))


def _check_quotes(text: str) -> None:
    """Raise if a quotation mark is not closed; Arrow would read on to the end of the file."""
    csv.field_size_limit(sys.maxsize)
    rows, line = csv.reader(io.StringIO(text, newline=""), strict=True), 0
    try:
        for _ in rows:
            line = rows.line_num
    except csv.Error as error:
        # All other irregularities are left to Arrow.
        if "unexpected end" in str(error):
            raise ValueError(f"line {line + 1} opens a quotation mark that is not closed") from None


def _csv_lines(text: str) -> list[int]:
    """The line, from 1, on which each row after the header begins; blank lines are skipped."""
    starts, inside = [], False
    for number, line in enumerate(_with_line_feeds(text).split("\n"), start=1):
        if not inside and line:
            starts.append(number)
        inside ^= line.count('"') % 2 == 1
    return starts[1:]


def _read_txt(path: Path, text_columns: tuple[str, ...]) -> FileTable:
    # Not str.splitlines, which also splits at form feeds and other separators.
    lines = _text_of(path).split("\n")
    documents = [(number, line) for number, line in enumerate(lines) if line.strip()]
    columns = pa.table({"text": pa.array([line for _, line in documents], pa.string())})
    return FileTable(columns, np.array([number for number, _ in documents], dtype=np.int64))


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
    """A file's text, with its line ends unchanged.

    Raises:
        ValueError: naming the first line that cannot be decoded.
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
    """The objects of a JSON array, or of lines with one object each."""
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
        line = where if where.startswith("line") else f"line {error.lineno}"
        raise ValueError(f"{line} is not JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply to be read") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has two values called {duplicate!r}: rename one of them")
    return values


def _json_column(values: list[Any], is_text: bool) -> pa.Array:
    """A column of values: of text only its strings, of mixed types their JSON."""
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
