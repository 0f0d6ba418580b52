"""A journal that is interrupted, or out of room, stays readable."""

from pathlib import Path
from typing import Any

import pytest

from engine.runs.errors import RunError
from engine.runs.journal import JournalReader, JournalWriter, read_journal


class Faulty:
    """A file whose next write stops half-way."""

    def __init__(self, file: Any, fault: BaseException | None) -> None:
        self._file, self._fault = file, fault

    def write(self, data: bytes) -> int:
        written = int(self._file.write(data[:20]))
        if self._fault is not None:
            raise self._fault
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), None], ids=["signal", "full disk"])
def test_half_a_write_is_taken_back(tmp_path: Path, fault: BaseException | None) -> None:
    path = tmp_path / "events.jsonl"
    writer: Any = JournalWriter(path)
    writer.append("before")
    whole, writer._file = writer._file, Faulty(writer._file, fault)
    with pytest.raises(KeyboardInterrupt if fault else OSError):
        writer.append("lost")
    writer._file = whole
    writer.append("after")
    writer.close()
    assert [(r["seq"], r["event"]) for r in read_journal(path)] == [(0, "before"), (1, "after")]


def test_a_missing_line_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    writer = JournalWriter(path)
    for name in ("a", "b", "c"):
        writer.append(name)
    writer.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    with pytest.raises(RunError, match="line 2 is damaged or missing"):
        JournalReader(path).poll()
