"""Where Live gets its facts: the journal from disk, the state and the machine from the engine."""

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from textual import work
from textual.widget import Widget
from textual.worker import Worker, get_current_worker

from engine.runs.errors import MagicError
from engine.runs.run_folder import RunFolder
from engine.runs.states import View
from magic_tui.client.engine import is_settled
from magic_tui.live.follow_journal import Follower, last_printed
from magic_tui.runs.glance import Glance, glance

if TYPE_CHECKING:
    from magic_tui.live.run_history import RunHistory
    from magic_tui.widgets.screen import Dashboard

_GOES_ON = "a run at work goes on by itself"
_LOST = f"no engine answers; {_GOES_ON}"
_LOOK_SECONDS, _ASK_SECONDS, _QUIET_SECONDS = 0.5, 1.0, 3.0


class Feed(Widget):
    """Follows one run while its screen is shown."""

    if TYPE_CHECKING:

        @property
        def magic(self) -> Dashboard:
            """The app."""

        def show_problem(self, sentence: str | None) -> None:
            """Say what is wrong."""

        def repaint(self) -> None:
            """Show everything anew."""

    dirty = False
    """Whether something changed since the last repaint."""
    run_view: View | None = None
    engine_view: View | None = None
    budget: float | None = None
    is_removed = False
    """Whether the trajectory was removed since it was recorded."""
    wants_printed = False
    """Whether what was printed is looked at."""

    def __init__(self) -> None:
        """Nothing is followed yet."""
        super().__init__()
        self.recording: RunHistory | None = None
        """What was read of the journal; None until reading began."""
        self.printed: list[str] = []
        self._follower: Follower | None = None
        self._resting = threading.Event()
        self._workers: list[Worker[None]] = []
        self._problems: dict[str, str] = {}

    def follow(self, run: RunFolder) -> bool:
        """Follow a run from now on; whether it is another one than before."""
        another = self._follower is None or self._follower.run != run
        if another:
            self.rest()
            if self._follower is not None:
                self._follower.close()
            self._follower = Follower(run)
            self.recording, self.printed = None, []
            self.run_view = self.engine_view = self.budget = None
            self.is_removed = False
        if another or self._resting.is_set():
            self._resting = threading.Event()
            self._problems = {}
            # Behind the next frame: what reads takes long to load.
            self.call_after_refresh(self._start, run, self._resting)
        return another

    def _start(self, run: RunFolder, resting: threading.Event) -> None:
        if not resting.is_set():
            assert self._follower is not None
            self._workers = [self._read(self._follower, resting), self._ask(run, resting)]

    def rest(self) -> None:
        """Stop reading until asked to follow again."""
        self._resting.set()
        for worker in self._workers:
            worker.cancel()

    def on_unmount(self) -> None:
        """Stop for good."""
        self.rest()

    @work(thread=True, group="journal", exit_on_error=False)
    def _read(self, follower: Follower, resting: threading.Event) -> None:
        """Read the journal in pieces, then what is added to it."""
        if self.recording is None:
            from magic_tui.live.run_history import RunHistory

            self._tell(resting, self._begin, RunHistory())
        self._find_budget(follower.run, resting)
        while not resting.is_set():
            try:
                records = follower.read()
            except (MagicError, OSError) as error:
                self._tell(resting, self._trouble, "journal", str(error))
                resting.wait(_QUIET_SECONDS)
                continue
            if "journal" in self._problems:
                self._tell(resting, self._trouble, "journal", None)
            removed = not follower.run.trajectory.is_dir()
            if removed != self.is_removed:
                self._tell(resting, self._keep, removed)
            if records:
                self._tell(resting, self._take, records)
            else:
                if self.wants_printed:
                    self._tell(resting, self._print, last_printed(follower.run))
                resting.wait(_LOOK_SECONDS)

    @work(thread=True, group="engine", exit_on_error=False)
    def _ask(self, run: RunFolder, resting: threading.Event) -> None:
        """Ask the engine how the run and the machine are."""

        def lost() -> None:
            self._tell(resting, self._trouble, "engine", f"{_LOST}; one is being started")

        while not resting.is_set():
            try:
                seen = glance(self.magic.engine(), run.id, lost)
            except MagicError as error:
                if run.path.is_dir():
                    sentence = f"{error}; {_GOES_ON}; trying again"
                    self._tell(resting, self._trouble, "engine", sentence)
                resting.wait(_QUIET_SECONDS)
                continue
            if "engine" in self._problems:
                self._tell(resting, self._trouble, "engine", None)
            self._tell(resting, self._glanced, seen)
            resting.wait(_QUIET_SECONDS if is_settled(seen.runs[0]) else _ASK_SECONDS)

    def _find_budget(self, run: RunFolder, resting: threading.Event) -> None:
        with contextlib.suppress(MagicError, OSError):
            gigabytes = run.config().attribution.memory_budget_gb
            if gigabytes is not None:
                self._tell(resting, self._take_budget, gigabytes * 1e9)

    def _tell(self, resting: threading.Event, taker: Callable[..., None], *what: Any) -> None:
        """Pass something to the screen, unless it does not follow this any more."""

        def take() -> None:
            if not resting.is_set():
                taker(*what)

        if not resting.is_set() and not get_current_worker().is_cancelled:
            self.app.call_from_thread(take)

    def _begin(self, recording: "RunHistory") -> None:
        self.recording, self.dirty = recording, True

    def _take(self, records: list[dict[str, Any]]) -> None:
        assert self.recording is not None
        first = not self.recording.count
        self.recording.take(records)
        self.dirty = True
        if first and self.is_mounted:
            self.repaint()

    def _take_budget(self, budget: float) -> None:
        self.budget = budget

    def _keep(self, removed: bool) -> None:
        self.is_removed, self.dirty = removed, True

    def _print(self, lines: list[str]) -> None:
        if lines != self.printed:
            self.printed, self.dirty = lines, True

    def _glanced(self, seen: Glance) -> None:
        run = seen.runs[0]
        if (run, seen.engine) != (self.run_view, self.engine_view):
            self.run_view, self.engine_view, self.dirty = run, seen.engine, True

    def _trouble(self, about: str, sentence: str | None) -> None:
        before = dict(self._problems)
        self._problems.pop(about, None)
        if sentence is not None:
            self._problems[about] = sentence
        if before != self._problems:
            self.show_problem(self._problems.get("journal") or self._problems.get("engine"))
