"""Append-only journals: one JSON object a line, numbered, each with its own checksum.

One process writes at a time, from any of its threads. A line that was cut off at the end is
dropped when the journal is opened again; a damaged line anywhere else is an error, because what
it said is lost.
"""

import errno
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c

from engine.contract.errors import RunError

_TAIL = re.compile(rb',"crc":"([0-9a-f]{8})"\}$')


class JournalWriter:
    """Appends records; each is visible to readers as soon as :meth:`append` returns."""

    def __init__(self, path: Path) -> None:
        """Open for appending, cutting off an unfinished last line."""
        self._file = open(path, "ab+", buffering=0)  # noqa: SIM115 - closed in close()
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        self._next = sum(1 for _ in parse_lines(whole, path)) if whole else 0
        self._lock = threading.Lock()

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
                # Neither a signal nor a full disk may leave half a line, or two of one number.
                self._next = before[0]
                os.ftruncate(self._file.fileno(), before[1])
                raise

    def sync(self) -> None:
        """Make everything appended so far durable."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        self._file.close()


class JournalReader:
    """Reads a journal from the beginning and then whatever was added since."""

    def __init__(self, path: Path) -> None:
        """Follow the journal at ``path``, which may not exist yet."""
        self.path = path
        self._file: Any = None
        self._rest = b""
        self._next = 0

    def poll(self) -> list[dict[str, Any]]:
        """The complete records added since the last call.

        Raises:
            RunError: if a complete line is damaged.
        """
        if self._file is None:
            try:
                self._file = open(self.path, "rb")  # noqa: SIM115 - closed in close()
            except FileNotFoundError:
                return []
        content = self._rest + self._file.read()
        end = content.rfind(b"\n") + 1
        self._rest = content[end:]
        records = list(parse_lines(content[:end], self.path, self._next))
        self._next += len(records)
        return records

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All complete records of a journal; none if there is no journal."""
    reader = JournalReader(path)
    try:
        return reader.poll()
    finally:
        reader.close()


def parse_lines(content: bytes, path: Path, first: int = 0) -> Iterator[dict[str, Any]]:
    """Decode whole lines from record ``first`` on, checking checksums and that none is missing."""
    for number, line in enumerate(content.splitlines(), start=first):
        match = _TAIL.search(line)
        body = line[: match.start()] + b"}" if match else b""
        intact = match is not None and google_crc32c.value(body) == int(match[1], 16)
        record = json.loads(body) if intact else {}
        if record.get("seq") != number:
            raise RunError(
                f"{path}: line {number + 1} is damaged or missing; restore the file from a "
                "backup, or remove the run"
            )
        yield record


def _encode(record: dict[str, Any]) -> bytes:
    body = json.dumps(record, separators=(",", ":"), ensure_ascii=True).encode()
    return body[:-1] + b',"crc":"%08x"}\n' % google_crc32c.value(body)
