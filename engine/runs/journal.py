"""Append-only journals: one numbered JSON object per line, each with a checksum.

One process writes at a time, from any of its threads. An incomplete last line is dropped when the
journal is opened for writing; a damaged line anywhere else is an error, as its content is lost.
"""

import contextlib
import errno
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c

from engine.runs.errors import RunError
from engine.runs.safe_open import open_regular, regular

_HEAD = re.compile(rb'^\{"seq":([0-9]+),')
_TAIL = re.compile(rb',"crc":"([0-9a-f]{8})"\}$')


class JournalWriter:
    """Appends records; readers see each as soon as :meth:`append` returns."""

    def __init__(self, path: Path) -> None:
        """Open for appending, cutting off an unfinished last line."""
        # Closed in close().
        self._file = open(path, "ab+", buffering=0, opener=regular)  # noqa: SIM115
        self._lock = threading.Lock()
        try:
            self._next = self._cut_off()
        except BaseException:
            self._file.close()
            raise

    def append(self, event: str, /, **facts: Any) -> None:
        """Add one record; its ``seq`` and ``time`` are filled in."""
        with self._lock:
            record = {"seq": self._next, "time": round(time.time(), 3), "event": event, **facts}
            line, before = _encode(record), (self._next, os.fstat(self._file.fileno()).st_size)
            try:
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
                self._next += 1
            except BaseException:
                # After a signal or on a full disk: remove the partial line, reuse its number.
                self._next = before[0]
                os.ftruncate(self._file.fileno(), before[1])
                raise

    def sync(self) -> None:
        """Make everything appended so far durable."""
        os.fsync(self._file.fileno())

    def _cut_off(self) -> int:
        """Cut off an unfinished last line; returns the number of records."""
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        return sum(1 for _ in parse_lines(whole, Path(self._file.name))) if whole else 0

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        self._file.close()


class JournalReader:
    """Reads a journal from the beginning or from any record, then the records added later."""

    def __init__(self, path: Path) -> None:
        """Follow the journal at ``path``, which may not exist yet."""
        self.path = path
        self.offset = 0
        """Bytes of the records read so far."""
        self._file: BinaryIO | None = None
        self._next = 0

    def poll(self, limit: int = -1) -> list[dict[str, Any]]:
        """The complete records added since the last call, or those in the next ``limit`` bytes.

        A record longer than ``limit`` is read whole, so an empty list means that no further record
        exists yet.

        Raises:
            RunError: if a complete line is damaged.
        """
        file = self._opened()
        if file is None:
            return []
        # A partial line is read again: its writer may have removed it.
        file.seek(self.offset)
        content = file.read(limit)
        if 0 < limit == len(content) and b"\n" not in content:
            content += file.readline()
        end = content.rfind(b"\n") + 1
        records = list(parse_lines(content[:end], self.path, self._next))
        self._next += len(records)
        self.offset += end
        return records

    def skip_to(self, number: int) -> bool:
        """Skip to record ``number``; False, without a change, if fewer records precede it.

        Reads only a few lines of a journal of any length, and checks only the last of the skipped
        records.

        Raises:
            RunError: if a line that it reads is damaged.
        """
        file, offset = self._opened(), 0 if number == 0 else None
        if file is not None and number > 0:
            offset = _end_of_record(file, number - 1, self.path)
        if offset is None:
            return False
        self.offset, self._next = offset, number
        return True

    def has_shrunk(self) -> bool:
        """Whether the file is shorter than what was read; the reader then cannot continue."""
        file = self._file
        return file is not None and os.fstat(file.fileno()).st_size < self.offset

    def close(self) -> None:
        """Close the file; a later poll opens it again and continues."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> BinaryIO | None:
        if self._file is None:
            with contextlib.suppress(FileNotFoundError):
                self._file = open_regular(self.path)
        return self._file


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All complete records of a journal; empty if it does not exist."""
    reader = JournalReader(path)
    try:
        return reader.poll()
    finally:
        reader.close()


def parse_lines(content: bytes, path: Path, first: int = 0) -> Iterator[dict[str, Any]]:
    """Decode whole lines from record ``first`` on; check checksums and numbers."""
    for number, line in enumerate(content.splitlines(), start=first):
        match = _TAIL.search(line)
        body = line[: match.start()] + b"}" if match else b""
        intact = match is not None and google_crc32c.value(body) == int(match[1], 16)
        record = json.loads(body) if intact else {}
        if record.get("seq") != number:
            raise RunError(
                f"{path}: line {number + 1} is damaged or missing; restore the file from a "
                "backup, or run the config again"
            )
        yield record


def _end_of_record(file: BinaryIO, number: int, path: Path) -> int | None:
    """The end of the line of record ``number``, by bisection; None if there is none."""
    low, high = 0, os.fstat(file.fileno()).st_size
    # Lines that start before ``low`` have smaller numbers, lines from ``high`` on greater ones.
    while low < high:
        middle = start = (low + high) // 2
        if middle > low:
            file.seek(middle - 1)
            start += len(file.readline()) - 1
        file.seek(start)
        line = file.readline()
        if start >= high or not line.endswith(b"\n"):
            high = middle
            continue
        match = _HEAD.match(line)
        if match is None:
            raise RunError(
                f"{path}: the line at byte {start} is damaged; restore the file from a backup, "
                "or run the config again"
            )
        if int(match[1]) == number:
            list(parse_lines(line, path, number))
            return start + len(line)
        if int(match[1]) < number:
            low = start + len(line)
        else:
            high = middle
    return None


def _encode(record: dict[str, Any]) -> bytes:
    body = json.dumps(record, separators=(",", ":"), ensure_ascii=True).encode()
    return body[:-1] + b',"crc":"%08x"}\n' % google_crc32c.value(body)
