"""What the engine stores beside the run folders: its queue, and facts about folders.

The engine starts a job only if the job is in this queue: it was submitted to this engine, or
resumed through it. A file in a run folder cannot add a job, because run folders are copied,
received and shared. The database lies in the state folder, which only its user may enter.

A *fact* is a named value about a path, for example that the user accepted that others may write in
a folder of runs. Name a new fact by a constant next to the code that reads it.

If the registry is lost, waiting jobs are no longer in the queue: each gives that as its reason, and
``magic resume`` adds it again. Running jobs are found by their leases. So no failure here stops the
engine.

The journal mode is not WAL, which fails on network filesystems, where home folders often are.
"""

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

Entry = tuple[Path, int]
"""The folder of a run and the number of its job."""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)
_SCHEMA_VERSION = 1
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS facts (
    path BLOB NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (path, name)
);
CREATE TABLE IF NOT EXISTS queue (
    position INTEGER PRIMARY KEY,
    run BLOB NOT NULL,
    job INTEGER NOT NULL,
    UNIQUE (run, job)
);
PRAGMA user_version = {_SCHEMA_VERSION};
"""


class Registry:
    """Answers from memory and writes every change to a database; thread-safe."""

    def __init__(self, file: Path) -> None:
        """Read ``file``; a damaged one is renamed and replaced."""
        self._file = file
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._facts: dict[tuple[Path, str], str] = {}
        self._queue: dict[Entry, int] = {}
        with self._lock:
            self._attempt(self._read)

    @property
    def runs(self) -> list[Path]:
        """The folders of the runs with a job in the queue, the first one first."""
        with self._lock:
            entries = sorted(self._queue, key=lambda entry: self._queue[entry])
            return list(dict.fromkeys(run for run, _ in entries))

    def fact(self, path: Path, name: str) -> str | None:
        """The value of a fact about a path; None if there is none."""
        with self._lock:
            return self._facts.get((path, name))

    def paths_with_fact(self, name: str) -> list[Path]:
        """The paths that have a fact."""
        with self._lock:
            return [path for path, each in self._facts if each == name]

    def set_fact(self, path: Path, name: str, value: str = "yes") -> None:
        """Store a fact about a path in place of its earlier value."""
        with self._lock:
            self._facts[path, name] = value
            row = (os.fsencode(path), name, value)
            self._write("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", [row])

    def clear_fact(self, path: Path, name: str) -> None:
        """Delete a fact about a path."""
        with self._lock:
            if self._facts.pop((path, name), None) is not None:
                row = (os.fsencode(path), name)
                self._write("DELETE FROM facts WHERE path = ? AND name = ?", [row])

    def forget(self, folder: Path) -> int:
        """Delete all facts and queue entries at and below a folder; returns how many entries."""
        with self._lock:
            keys = [key for key in self._facts if key[0].is_relative_to(folder)]
        for path, name in keys:
            self.clear_fact(path, name)
        return self.dequeue(lambda entry: entry[0].is_relative_to(folder))

    def position(self, entry: Entry) -> int | None:
        """A number that grows along the queue; None if the entry is not in it."""
        with self._lock:
            return self._queue.get(entry)

    def enqueue(self, entries: Iterable[Entry]) -> None:
        """Append the entries that are not in the queue yet, in the order given."""
        with self._lock:
            last = max(self._queue.values(), default=0)
            new = [entry for entry in dict.fromkeys(entries) if entry not in self._queue]
            rows = []
            for position, (run, job) in enumerate(new, start=last + 1):
                self._queue[run, job] = position
                rows.append((position, os.fsencode(run), job))
            self._write("INSERT OR REPLACE INTO queue VALUES (?, ?, ?)", rows)

    def dequeue(self, matches: Callable[[Entry], bool]) -> int:
        """Delete matching entries; returns how many."""
        with self._lock:
            entries = [entry for entry in self._queue if matches(entry)]
            for entry in entries:
                del self._queue[entry]
            rows = [(os.fsencode(run), job) for run, job in entries]
            self._write("DELETE FROM queue WHERE run = ? AND job = ?", rows)
            return len(entries)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._disconnect()

    def _read(self) -> None:
        connection = self._connected()
        for path, name, value in connection.execute("SELECT path, name, value FROM facts"):
            self._facts.setdefault((Path(os.fsdecode(path)), str(name)), str(value))
        for position, run, job in connection.execute("SELECT position, run, job FROM queue"):
            self._queue.setdefault((Path(os.fsdecode(run)), int(job)), int(position))

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        def write() -> None:
            with self._connected() as connection:
                connection.executemany(statement, rows)

        if rows:
            self._attempt(write)

    def _attempt(self, action: Callable[[], None]) -> None:
        """Run ``action``; if the database is damaged, write a new one from memory."""
        try:
            action()
        except (sqlite3.Error, TypeError, ValueError) as error:
            damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED
            if not damaged and isinstance(error, sqlite3.OperationalError):
                # A full disk or a lock: what is not written costs at most a `magic resume`.
                log.warning("%s could not be used: %s", self._file, error)
                self._disconnect()
                return
            self._move_aside(error)
            try:
                self._write_all()
            except (sqlite3.Error, OSError) as again:
                log.warning("%s could not be replaced: %s", self._file, again)
                self._disconnect()

    def _move_aside(self, error: Exception) -> None:
        self._disconnect()
        aside = self._file.with_name(f"{self._file.name}.damaged-{time.time_ns()}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._file, aside)
        # SQLite would apply its journal to the new file.
        self._file.with_name(f"{self._file.name}-journal").unlink(missing_ok=True)
        log.warning(
            "%s is damaged (%s); it was moved to %s and replaced; resume waiting runs with: "
            "magic resume",
            self._file, error, aside,
        )  # fmt: skip

    def _write_all(self) -> None:
        with self._connected() as connection:
            facts = [(os.fsencode(path), name, v) for (path, name), v in self._facts.items()]
            connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", facts)
            queue = [(number, os.fsencode(run), job) for (run, job), number in self._queue.items()]
            connection.executemany("INSERT OR REPLACE INTO queue VALUES (?, ?, ?)", queue)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self._file, check_same_thread=False, timeout=5.0)
            try:
                connection.execute("PRAGMA journal_mode = DELETE")
                connection.execute("PRAGMA synchronous = EXTRA")
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version not in (0, _SCHEMA_VERSION):
                    raise ValueError(f"it has version {version}, not {_SCHEMA_VERSION}")
                (check,) = connection.execute("PRAGMA quick_check").fetchone()
                if check != "ok":
                    raise ValueError(check)
                connection.executescript(_SCHEMA)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
