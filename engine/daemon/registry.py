"""What the engine has to remember beside the run folders: which jobs are its own.

The engine starts a job only if the job is in the queue kept here: it was submitted to this engine,
or resumed through it. A file in a run folder cannot put a job there, because run folders are
copied, received and shared. The file lies in the state folder, which only its user may enter.

``said`` holds what the user said once of a folder or of a run, such as that other users may write
in a runs folder. To remember something new, choose a name for the fact, a constant beside the code
that asks for it, and use :meth:`Registry.say` and :meth:`Registry.said` with the path that it is
about: values are text, such as a digest of what was accepted. ``forget`` drops every fact about a
path and what is below it.

A lost registry costs the jobs that wait: each says so as its reason, and ``magic resume`` puts it
back. Runs at work are found again by their leases. So no failure here stops the engine.

Not WAL: that fails on network filesystems, where home folders are.
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
"""A run's folder and the number of its job."""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)
_SCHEMA_VERSION = 2
_FIRST_VERSION = """
DROP TABLE IF EXISTS folders;
DROP TABLE IF EXISTS queue;
"""
"""Of version 1: its queue held every job that had ever been looked at."""
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS said (
    path BLOB NOT NULL,
    fact TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (path, fact)
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
    """Answers from memory; every change is written down as well."""

    def __init__(self, file: Path) -> None:
        """Read ``file``; if it is damaged it is moved aside and made anew."""
        self._file = file
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._said: dict[tuple[Path, str], str] = {}
        self._queue: dict[Entry, int] = {}
        with self._lock:
            self._attempt(self._read)

    @property
    def runs(self) -> list[Path]:
        """The folders of the runs with a job in the queue, the first one first."""
        with self._lock:
            entries = sorted(self._queue, key=lambda entry: self._queue[entry])
            return list(dict.fromkeys(run for run, _ in entries))

    def said(self, path: Path, fact: str) -> str | None:
        """What the user said of a path; None if nothing."""
        with self._lock:
            return self._said.get((path, fact))

    def said_of(self, fact: str) -> list[Path]:
        """The paths of which the user said something."""
        with self._lock:
            return [path for path, name in self._said if name == fact]

    def say(self, path: Path, fact: str, value: str = "yes") -> None:
        """Remember what the user said of a path, in place of what was said before."""
        with self._lock:
            self._said[path, fact] = value
            row = (os.fsencode(path), fact, value)
            self._write("INSERT OR REPLACE INTO said VALUES (?, ?, ?)", [row])

    def take_back(self, path: Path, fact: str) -> None:
        """Forget one fact."""
        with self._lock:
            if self._said.pop((path, fact), None) is not None:
                row = (os.fsencode(path), fact)
                self._write("DELETE FROM said WHERE path = ? AND fact = ?", [row])

    def forget(self, folder: Path) -> int:
        """Forget what is known of a folder and of all below it; how many jobs that were."""
        with self._lock:
            facts = [key for key in self._said if key[0].is_relative_to(folder)]
        for path, fact in facts:
            self.take_back(path, fact)
        return self.leave(lambda entry: entry[0].is_relative_to(folder))

    def position(self, entry: Entry) -> int | None:
        """A number that grows along the queue; None for what is not in it."""
        with self._lock:
            return self._queue.get(entry)

    def enqueue(self, entries: Iterable[Entry]) -> None:
        """Append those that are not in the queue yet, in the order given."""
        with self._lock:
            last = max(self._queue.values(), default=0)
            new = [entry for entry in dict.fromkeys(entries) if entry not in self._queue]
            rows = []
            for position, (run, job) in enumerate(new, start=last + 1):
                self._queue[run, job] = position
                rows.append((position, os.fsencode(run), job))
            self._write("INSERT OR REPLACE INTO queue VALUES (?, ?, ?)", rows)

    def leave(self, gone: Callable[[Entry], bool]) -> int:
        """Take out of the queue whatever is over; how many jobs that were."""
        with self._lock:
            rows = [entry for entry in self._queue if gone(entry)]
            for entry in rows:
                del self._queue[entry]
            where = [(os.fsencode(run), job) for run, job in rows]
            self._write("DELETE FROM queue WHERE run = ? AND job = ?", where)
            return len(rows)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._disconnect()

    def _read(self) -> None:
        connection = self._connected()
        for path, fact, value in connection.execute("SELECT path, fact, value FROM said"):
            self._said.setdefault((Path(os.fsdecode(path)), str(fact)), str(value))
        for position, run, job in connection.execute("SELECT position, run, job FROM queue"):
            self._queue.setdefault((Path(os.fsdecode(run)), int(job)), int(position))

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        def write() -> None:
            with self._connected() as connection:
                connection.executemany(statement, rows)

        if rows:
            self._attempt(write)

    def _attempt(self, action: Callable[[], None]) -> None:
        """Do it; if the file turns out to be damaged, make it anew from memory."""
        try:
            action()
        except (sqlite3.Error, TypeError, ValueError) as error:
            damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED
            if not damaged and isinstance(error, sqlite3.OperationalError):
                # A full disk or a lock: the next start reads what it needs from the run folders.
                log.warning("%s could not be used: %s", self._file, error)
                self._disconnect()
                return
            self._move_aside(error)
            try:
                self._write_all()
            except (sqlite3.Error, OSError) as again:
                log.warning("%s could not be made anew: %s", self._file, again)
                self._disconnect()

    def _move_aside(self, error: Exception) -> None:
        self._disconnect()
        aside = self._file.with_name(f"{self._file.name}.damaged-{time.time_ns()}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._file, aside)
        # Its journal would be applied to the new file.
        self._file.with_name(f"{self._file.name}-journal").unlink(missing_ok=True)
        log.warning(
            "%s is damaged (%s); it was moved to %s and is made anew; what waited goes on with: "
            "magic resume",
            self._file, error, aside,
        )  # fmt: skip

    def _write_all(self) -> None:
        with self._connected() as connection:
            said = [(os.fsencode(path), fact, v) for (path, fact), v in self._said.items()]
            connection.executemany("INSERT OR REPLACE INTO said VALUES (?, ?, ?)", said)
            queue = [(number, os.fsencode(run), job) for (run, job), number in self._queue.items()]
            connection.executemany("INSERT OR REPLACE INTO queue VALUES (?, ?, ?)", queue)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self._file, check_same_thread=False, timeout=5.0)
            try:
                connection.execute("PRAGMA journal_mode = DELETE")
                connection.execute("PRAGMA synchronous = EXTRA")
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version == 1:
                    connection.executescript(_FIRST_VERSION)
                elif version not in (0, _SCHEMA_VERSION):
                    raise ValueError(f"it has version {version}, not {_SCHEMA_VERSION}")
                (found,) = connection.execute("PRAGMA quick_check").fetchone()
                if found != "ok":
                    raise ValueError(found)
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
