"""Retrainings that are shared through a folder, by processes on any machine that sees it.

    waiting/NUMBER        what nobody is at: the task
    taken/NUMBER@WHO      what somebody is at: the same file, renamed, so that only one can have it
    done/NUMBER           what came out

Each takes the next one when it is done with one, so that whoever starts late, or is lost, costs the
others nothing. Only the process that owns the bank moves results into it.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.evaluation.retraining import Retrained, Task
from engine.evaluation.subsets import Subset
from engine.runs.checksummed import read_record, write_record


@dataclass(frozen=True)
class Taken:
    """A task that somebody has."""

    number: str
    task: Task


class Pool:
    """The tasks of one fan-out."""

    def __init__(self, folder: Path) -> None:
        """The pool in ``folder``; nothing is read until asked for."""
        self.folder = folder
        self._waiting, self._taken = folder / "waiting", folder / "taken"
        self._done = folder / "done"
        self._seen: set[str] = set()

    @classmethod
    def make(cls, folder: Path, tasks: Sequence[Task]) -> "Pool":
        """A new pool, its tasks in the order in which they are to be taken."""
        pool = cls(folder)
        for each in (pool._waiting, pool._taken, pool._done):
            each.mkdir(parents=True)
        for number, (subset, kept) in enumerate(tasks):
            write_record(pool._waiting / f"{number:06}", {"subset": asdict(subset), "kept": kept})
        return pool

    def take(self, who: str) -> Taken | None:
        """The next task: one that is ``who``'s already, from before an interruption, or a new one.

        None if there is none left, or the pool is gone: then nobody waits for results any more.
        """
        for name in _names(self._taken):
            number, _, owner = name.partition("@")
            if owner == who and not (self._done / number).exists():
                return self._read(number, who)
        for number in _names(self._waiting):
            with contextlib.suppress(FileNotFoundError):
                os.rename(self._waiting / number, self._taken / f"{number}@{who}")
                return self._read(number, who)
        return None

    def finish(self, taken: Taken, who: str, retrained: Retrained, warning: str | None) -> None:
        """Say what came out, and what should be known of the machine that did it."""
        record = {**asdict(retrained), "warning": warning}
        write_record(self._done / taken.number, record)
        (self._taken / f"{taken.number}@{who}").unlink(missing_ok=True)

    def release(self, who: str) -> None:
        """Let others have what ``who`` took and did not finish."""
        for name in _names(self._taken):
            number, _, owner = name.partition("@")
            if owner == who and not (self._done / number).exists():
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self._taken / name, self._waiting / number)

    def finished(self) -> Iterator[tuple[Retrained, str | None]]:
        """What came out since this was asked last, each with what should be known of it."""
        for number in _names(self._done):
            if number not in self._seen:
                self._seen.add(number)
                record = _read(self._done / number)
                warning = record.pop("warning")
                yield Retrained(_subset(record.pop("subset")), **record), warning

    def remove(self) -> None:
        """Remove it with all that lies beside it: whoever is still at it stops at the next task."""
        # A log that is being written may stay behind; it goes with the next fan-out.
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, number: str, who: str) -> Taken:
        record = _read(self._taken / f"{number}@{who}")
        return Taken(number, (_subset(record["subset"]), record["kept"]))


def left_over(folder: Path) -> Iterator[Pool]:
    """The pools whose owner was lost, or gave up: what was finished in them is not done again."""
    with contextlib.suppress(FileNotFoundError):
        for each in sorted(folder.iterdir()):
            yield Pool(each)


def _read(file: Path) -> dict[str, Any]:
    record = read_record(file)
    if record is None:
        raise FileNotFoundError(file)
    return record


def _subset(record: dict[str, Any]) -> Subset:
    return Subset(record["name"], record["kind"], tuple(record["documents"]))


def _names(folder: Path) -> list[str]:
    """The files of a folder in order, but for those that are being written."""
    with contextlib.suppress(OSError):
        # Over a network the list may be as old as what is known of the folder's attributes;
        # setting them asks for new ones.
        folder.chmod(folder.stat().st_mode)
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        return []
