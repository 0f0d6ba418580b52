"""The data of the Live screen: the journal from disk, run state and machine from the engine.

The journal and the logs are read from the run folder, so that a run can be followed while no engine
is running.
"""

import contextlib
import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.worker import Worker, get_current_worker

from engine.runs.errors import MagicError, RunError
from engine.runs.journal import JournalReader
from engine.runs.run_folder import RunFolder
from engine.runs.safe_open import open_regular
from engine.runs.states import View
from magic_tui.client.engine import is_settled
from magic_tui.runs.glance import Glance, glance
from magic_tui.widgets.screen import MagicScreen

if TYPE_CHECKING:
    from engine.runs.run_history import RunHistory

_CONTINUES = "a running run continues without it"
_LOST = f"no engine answers; {_CONTINUES}"
_JOURNAL_SECONDS, _ENGINE_SECONDS, _RETRY_SECONDS = 0.5, 1.0, 3.0
_JOURNAL_PIECE = 2**20
_LOG_PIECE = 2**16


class LiveFeed:
    """Follows one run in two threads; its attributes change on the UI thread only."""

    def __init__(self, screen: MagicScreen, on_first_events: Callable[[], None]) -> None:
        """Follow nothing yet; ``on_first_events`` is called when the first events were read."""
        self.history: RunHistory | None = None
        """The journal as read so far; None until reading began."""
        self.printed: list[str] = []
        """The end of the newest log file, once ``wants_printed``."""
        self.wants_printed = False
        self.run_view: View | None = None
        self.engine_view: View | None = None
        self.budget: float | None = None
        """The config's memory budget in bytes."""
        self.is_removed = False
        """Whether the trajectory has been removed."""
        self.is_dirty = False
        """Whether something changed since the screen was painted."""
        self._screen, self._on_first_events = screen, on_first_events
        self._run: RunFolder | None = None
        self._reader: JournalReader | None = None
        self._stopped = threading.Event()
        self._workers: list[Worker[None]] = []
        self._problems: dict[str, str] = {}

    def follow(self, run: RunFolder) -> bool:
        """Follow a run; returns whether it is another one than before."""
        is_other = self._run != run
        if is_other:
            self.stop()
            if self._reader is not None:
                self._reader.close()
            self._run, self._reader = run, JournalReader(run.events_file)
            self.history, self.printed, self.wants_printed = None, [], False
            self.run_view = self.engine_view = self.budget = None
            self.is_removed = False
        if is_other or self._stopped.is_set():
            self._stopped = threading.Event()
            self._problems = {}
            # After the next frame: the threads import slow modules.
            self._screen.call_after_refresh(self._start, run, self._stopped)
        return is_other

    def stop(self) -> None:
        """Stop reading until :meth:`follow` is called again."""
        self._stopped.set()
        for worker in self._workers:
            worker.cancel()

    def _start(self, run: RunFolder, stopped: threading.Event) -> None:
        if stopped.is_set():
            return
        assert self._reader is not None
        journal = functools.partial(self._follow_journal, run, self._reader, stopped)
        engine = functools.partial(self._follow_engine, run, stopped)
        self._workers = [
            self._screen.run_worker(journal, thread=True, group="journal", exit_on_error=False),
            self._screen.run_worker(engine, thread=True, group="engine", exit_on_error=False),
        ]

    def _follow_journal(
        self, run: RunFolder, reader: JournalReader, stopped: threading.Event
    ) -> None:
        """Read the journal in pieces, then what is added to it."""
        if self.history is None:
            from engine.runs.run_history import RunHistory

            self._post(stopped, self._set, history=RunHistory())
        with contextlib.suppress(MagicError, OSError):
            gigabytes = run.config().attribution.memory_budget_gb
            if gigabytes is not None:
                self._post(stopped, self._set, budget=gigabytes * 1e9)
        while not stopped.is_set():
            try:
                records = _read(run, reader)
            except (MagicError, OSError) as error:
                self._post(stopped, self._set_problem, "journal", str(error))
                stopped.wait(_RETRY_SECONDS)
                continue
            if "journal" in self._problems:
                self._post(stopped, self._set_problem, "journal", None)
            self._post(stopped, self._set, is_removed=not run.trajectory.is_dir())
            if records:
                self._post(stopped, self._add, records)
                continue
            if self.wants_printed:
                self._post(stopped, self._set, printed=last_printed(run))
            stopped.wait(_JOURNAL_SECONDS)

    def _follow_engine(self, run: RunFolder, stopped: threading.Event) -> None:
        """Poll the engine for the state of the run and of the machine."""

        def lost() -> None:
            self._post(stopped, self._set_problem, "engine", f"{_LOST}; one is being started")

        while not stopped.is_set():
            try:
                seen: Glance = glance(self._screen.magic.engine(), run.id, lost)
            except MagicError as error:
                if run.path.is_dir():
                    sentence = f"{error}; {_CONTINUES}; trying again"
                    self._post(stopped, self._set_problem, "engine", sentence)
                stopped.wait(_RETRY_SECONDS)
                continue
            if "engine" in self._problems:
                self._post(stopped, self._set_problem, "engine", None)
            self._post(stopped, self._set, run_view=seen.runs[0], engine_view=seen.engine)
            stopped.wait(_RETRY_SECONDS if is_settled(seen.runs[0]) else _ENGINE_SECONDS)

    def _post(
        self, stopped: threading.Event, action: Callable[..., None], *args: Any, **kwargs: Any
    ) -> None:
        """Run ``action`` on the UI thread, unless the run is no longer followed."""

        def act() -> None:
            if not stopped.is_set():
                action(*args, **kwargs)

        if not stopped.is_set() and not get_current_worker().is_cancelled:
            self._screen.app.call_from_thread(act)

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            if getattr(self, name) != value:
                setattr(self, name, value)
                self.is_dirty = True

    def _add(self, records: list[dict[str, Any]]) -> None:
        assert self.history is not None
        is_first = not self.history.count
        for record in records:
            self.history.add(record)
        self.is_dirty = True
        if is_first:
            self._on_first_events()

    def _set_problem(self, source: str, sentence: str | None) -> None:
        before = dict(self._problems)
        self._problems.pop(source, None)
        if sentence is not None:
            self._problems[source] = sentence
        if before != self._problems:
            problems = self._problems
            self._screen.show_problem(problems.get("journal") or problems.get("engine"))


def last_printed(run: RunFolder, lines: int = 500) -> list[str]:
    """The end of the newest log file; empty if there is none."""
    try:
        files = sorted(path for path in run.logs.iterdir() if path.is_file())
        return _end_of(files[-1])[-lines:] if files else []
    except (OSError, RunError):
        return []


def _read(run: RunFolder, reader: JournalReader) -> list[dict[str, Any]]:
    """The next records; empty if there are no more for now.

    Raises:
        RunError: if the folder is gone, or its journal is damaged or was replaced.
    """
    if not run.path.is_dir():
        raise RunError(f"the folder of run {run.id} is gone: {run.path}")
    if reader.has_shrunk():
        raise RunError(f"{run.events_file} was replaced; open the run again: 1, then ⏎")
    return reader.poll(_JOURNAL_PIECE)


def _end_of(path: Path) -> list[str]:
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _LOG_PIECE))
        lines = file.read().decode(errors="replace").splitlines()
    return lines[1:] if size > _LOG_PIECE else lines
