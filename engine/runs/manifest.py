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
    """The schedule that training follows and the files it has kept so far."""

    kind: str
    steps: int
    files: dict[Key, dict[str, Any]] = field(default_factory=dict)
    complete: bool = False
    dropped: dict[Key, dict[str, Any]] = field(default_factory=dict)
    """Files that were damaged or no longer needed, as they were named last."""
    stream: dict[str, str] = field(default_factory=dict)
    """Digests of what is trained on; empty if none were recorded."""

    def take(self, record: dict[str, Any]) -> None:
        """Bring up to date with one record of the journal."""
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
        """Grows with every file that a later attempt need not make again."""
        reached = max((step for kind, step in self.files if kind != "gradient"), default=-1)
        kept = sum(kind != "resume" for kind, _ in self.files)
        return (int(self.complete), kept, reached)


def other_stream(kept: dict[str, str], given: dict[str, str]) -> str:
    """What of a stream is not as it was, in words; empty if nothing is, or nothing is known."""
    return " and ".join(what for what in kept if what in given and kept[what] != given[what])


def part_folder(folder: Path, index: int, count: int) -> Path:
    """Where the ``index``-th of ``count`` ranks keeps its part of the trajectory in ``folder``."""
    return folder if count == 1 else folder / f"rank-{index}-of-{count}"


def parts_of(folder: Path) -> list[Path]:
    """The folders that make up the trajectory in ``folder``: itself, or one for every rank."""
    found = next(folder.glob("rank-*-of-*"), None)
    if found is None:
        return [folder]
    count = int(found.name.rsplit("-", 1)[1])
    return [part_folder(folder, index, count) for index in range(count)]


def read_manifest(folder: Path) -> Manifest | None:
    """What all parts of a trajectory hold; None if its training has not begun.

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
    """The manifest in the folder of a trajectory, or of one rank's part of it.

    Raises:
        RunError: if a line before the last is damaged.
    """
    records = read_journal(folder / MANIFEST)
    if not records or records[0]["event"] != "schedule":
        return None
    begun = records[0]
    manifest = Manifest(begun["kind"], begun["steps"], stream=begun.get("stream", {}))
    for record in records:
        manifest.take(record)
    return manifest
