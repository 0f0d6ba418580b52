"""The manifest of a trajectory: a journal that lists every file with its size and crc32c.

A file exists for readers once the manifest lists it. If it lists a file several times, the latest
record counts.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.runs.journal import read_journal

MANIFEST = "manifest.jsonl"
Key = tuple[str, int]
"""Kind ("state", "gradient" or "resume") and step."""


@dataclass
class Manifest:
    """The checkpointing of a training and the files that are on disk so far."""

    kind: str
    steps: int
    files: dict[Key, dict[str, Any]] = field(default_factory=dict)
    complete: bool = False
    dropped: dict[Key, dict[str, Any]] = field(default_factory=dict)
    """The last records of files that were damaged or no longer needed."""
    stream: dict[str, str] = field(default_factory=dict)
    """Digests of the data stream; empty if none were recorded."""

    def apply(self, record: dict[str, Any]) -> None:
        """Update with one record of the journal."""
        event = record["event"]
        if event == "complete":
            self.complete = True
        elif event == "dropped":
            key = (record["kind"], record["step"])
            if key in self.files:
                self.dropped[key] = self.files.pop(key)
            self.complete = self.complete and record["kind"] == "resume"
        elif event != "schedule":
            self.files[event, record["step"]] = record

    def progress_marker(self) -> tuple[int, int, int]:
        """Grows with every file that a later attempt need not write again."""
        reached = max((step for kind, step in self.files if kind != "gradient"), default=-1)
        stored = sum(kind != "resume" for kind, _ in self.files)
        return (int(self.complete), stored, reached)


def other_stream(recorded: dict[str, str], given: dict[str, str]) -> str:
    """The parts of a stream that differ, in words; empty if none does or none is known."""
    return " and ".join(
        what for what in recorded if what in given and recorded[what] != given[what]
    )


def part_folder(folder: Path, index: int, count: int) -> Path:
    """The folder of the ``index``-th of ``count`` parts of the trajectory in ``folder``."""
    return folder if count == 1 else folder / f"rank-{index}-of-{count}"


def parts_of(folder: Path) -> list[Path]:
    """The folders of a trajectory: ``folder`` itself, or one for each rank."""
    part = next(folder.glob("rank-*-of-*"), None)
    if part is None:
        return [folder]
    count = int(part.name.rsplit("-", 1)[1])
    return [part_folder(folder, index, count) for index in range(count)]


def read_manifest(folder: Path) -> Manifest | None:
    """The files that all parts of a trajectory contain; None if training has not begun.

    Raises:
        RunError: if a line before the last of a part's journal is damaged.
    """
    first, *others = [read_part(part) for part in parts_of(folder)]
    for other in others:
        if first is None or other is None:
            return None
        first.files = {key: facts for key, facts in first.files.items() if key in other.files}
        first.complete = first.complete and other.complete
    return first


def read_part(folder: Path) -> Manifest | None:
    """The manifest in the folder of a trajectory or of one rank's part.

    Raises:
        RunError: if a line before the last is damaged.
    """
    records = read_journal(folder / MANIFEST)
    if not records or records[0]["event"] != "schedule":
        return None
    begun = records[0]
    manifest = Manifest(begun["kind"], begun["steps"], stream=begun.get("stream", {}))
    for record in records:
        manifest.apply(record)
    return manifest
