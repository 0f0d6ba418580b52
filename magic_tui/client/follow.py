"""Where a worker's events come from: the journal of a run that is there, or soon will be."""

from pathlib import Path
from typing import Any, Protocol

from engine.records.journal import JournalReader
from engine.records.run_folder import RunFolder

Record = dict[str, Any]


class Follower(Protocol):
    """Where a worker's events come from."""

    def poll(self) -> list[Record]:
        """The events since the last call."""

    def close(self) -> None:
        """Let go of the file."""


class NewRunJournal:
    """The journal of a run whose folder does not exist yet, or not yet under its final name."""

    def __init__(self, runs: Path, run_id: str) -> None:
        """Expect ``runs/.ID.new/events.jsonl``, then ``runs/ID/events.jsonl``."""
        self._places = [runs / f".{run_id}.new", runs / run_id]
        self._reader = JournalReader(RunFolder(self._places[1]).events_file)
        self._opened = False

    def poll(self) -> list[Record]:
        """The events since the last call."""
        if not self._opened:
            for place in self._places:
                journal = RunFolder(place).events_file
                if journal.exists():
                    self._reader.path = journal
        events = self._reader.poll()
        self._opened = self._opened or bool(events)
        return events

    def close(self) -> None:
        """Let go of the file."""
        self._reader.close()
