"""What the engine has to remember beside the run folders: which folders, and who came first.

Everything else is read from the run folders, and this, too, can be made again from them: a lost
registry costs at most the order of the queue where clocks disagree, and the knowledge of unusual
runs folders until somebody names them again. So no failure here stops the engine.

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
_SCHEMA_VERSION = 1
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS folders (path BLOB PRIMARY KEY);
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
        self._folders: dict[Path, None] = {}
        self._queue: dict[Entry, int] = {}
        with self._lock:
            self._attempt(self._read)

    @property
    def folders(self) -> list[Path]:
        """The runs folders that are known, the first one first."""
        with self._lock:
            return list(self._folders)

    def know(self, folder: Path) -> bool:
        """Remember a runs folder; whether it is a new one."""
        with self._lock:
            if folder in self._folders:
                return False
            self._folders[folder] = None
            self._write("INSERT OR IGNORE INTO folders VALUES (?)", [(os.fsencode(folder),)])
            return True

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

    def leave(self, gone: Callable[[Entry], bool]) -> None:
        """Take out of the queue whatever is over."""
        with self._lock:
            rows = [entry for entry in self._queue if gone(entry)]
            for entry in rows:
                del self._queue[entry]
            where = [(os.fsencode(run), job) for run, job in rows]
            self._write("DELETE FROM queue WHERE run = ? AND job = ?", where)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._disconnect()

    def _read(self) -> None:
        connection = self._connected()
        for (path,) in connection.execute("SELECT path FROM folders ORDER BY rowid"):
            self._folders.setdefault(Path(os.fsdecode(path)))
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
            "%s is damaged (%s); it was moved to %s and is made anew from the run folders",
            self._file, error, aside,
        )  # fmt: skip

    def _write_all(self) -> None:
        with self._connected() as connection:
            folders = [(os.fsencode(folder),) for folder in self._folders]
            connection.executemany("INSERT OR IGNORE INTO folders VALUES (?)", folders)
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
