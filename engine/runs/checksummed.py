"""Small files with checksums, so that a changed file is detected.

A *record* is a JSON object that holds the SHA-256 of its other values under ``sha256``. The digest
of a file in another format (a tokenizer, a table) is in a record of the same folder, under
``files``: ``complete.json``, ``prepared.json`` or ``digests.json``. A CSV file that grows has a
checksum in every line, as its last column. Files without a checksum are read unchecked.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.runs.atomic import write_atomically
from engine.runs.errors import RunError
from engine.runs.safe_open import read_file, regular

DIGEST, FILES = "sha256", "files"
DIGESTS_FILE = "digests.json"
"""The record of files whose folder has no other record."""
CRC = "crc"
"""The column of checksums."""
_BESIDE = ("complete.json", "prepared.json", DIGESTS_FILE)


class ChangedError(RunError):
    """A file was changed after it was written."""


def digest_of(values: dict[str, Any]) -> str:
    """The SHA-256 of plain values, independent of the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sealed(values: dict[str, Any]) -> dict[str, Any]:
    """The same values with their digest."""
    # In the form that is read back: keys are strings, tuples are lists.
    plain = json.loads(json.dumps(values))
    return {**plain, DIGEST: digest_of(plain)}


def is_intact(record: dict[str, Any]) -> bool:
    """Whether a record has no digest, or that of its other values."""
    rest = {key: value for key, value in record.items() if key != DIGEST}
    return DIGEST not in record or record[DIGEST] == digest_of(rest)


def write_record(path: Path, values: dict[str, Any], indent: int | None = None) -> None:
    """Write a record atomically; its digest is added."""
    write_atomically(path, json.dumps(sealed(values), indent=indent).encode())


def read_record(path: Path) -> dict[str, Any] | None:
    """The values of a record without the digest; None if the file does not exist.

    Raises:
        ChangedError: if it is no JSON object, or its digest does not match.
    """
    try:
        record = dict(json.loads(read_file(path)))
        intact = is_intact(record)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise ChangedError(f"{path} is damaged; restore it from a backup")
    record.pop(DIGEST, None)
    return record


def digests_of(files: Iterable[Path]) -> dict[str, str]:
    """The digests of the existing files, by name."""
    return {file.name: digest_of_file(file) for file in files if file.is_file()}


def digest_of_file(file: Path) -> str:
    """The SHA-256 of a file; of its footer for a parquet file, whose pages have checksums."""
    with open(file, "rb", opener=regular) as content:
        if file.suffix == ".parquet":
            size = content.seek(0, 2)
            content.seek(max(0, size - 8))
            length = int.from_bytes(content.read(4), "little")
            content.seek(max(0, size - 8 - length))
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_with_digest(file: Path, content: bytes) -> None:
    """Write a file atomically, after its digest: a digest without its file is ignored."""
    record = file.with_name(DIGESTS_FILE)
    known = (read_record(record) or {}).get(FILES, {})
    digest = hashlib.sha256(content).hexdigest()
    write_record(record, {FILES: {**known, file.name: digest}})
    write_atomically(file, content)


def verify(file: Path) -> None:
    """Compare a file with its digest in the record beside it, if there is one.

    Raises:
        ChangedError: if they differ, or the record is damaged.
    """
    for name in _BESIDE:
        record = read_record(file.with_name(name))
        expected = (record or {}).get(FILES, {}).get(file.name)
        if expected is not None and file.exists() and digest_of_file(file) != expected:
            raise ChangedError(
                f"{file} was changed or damaged after it was written; restore it from a backup"
            )


def with_checksum(line: str, header: str) -> str:
    """A line of a CSV file with the CRC-32 of the file's header and itself."""
    crc = zlib.crc32(f"{header}\n{line}".encode())
    return f"{line},{crc:08x}"


def check_lines(text: str, file: Path) -> None:
    """Check all lines of a CSV file, if it has a column of checksums.

    Raises:
        ChangedError: naming the first changed line.
    """
    header, *lines = text.splitlines() or [""]
    if not header.endswith(f",{CRC}"):
        return
    for number, line in enumerate(lines, start=2):
        if with_checksum(line.rpartition(",")[0], header) != line:
            raise ChangedError(
                f"{file}, line {number}, was changed or damaged after it was written; restore it "
                "from a backup, or remove it and validate again"
            )
