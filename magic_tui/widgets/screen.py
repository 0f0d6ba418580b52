"""Base class of the dashboard's screens: header, body, problem line and footer.

A subclass yields its regions from :meth:`MagicScreen.body`. Slow work runs in thread workers with
``exit_on_error=False``; :meth:`MagicScreen.show_problem` reports what cannot be read.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, cast

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static
from textual.worker import Worker, WorkerState, get_current_worker

from engine.runs.safe_text import one_line
from magic_tui.client.engine import Engine
from magic_tui.widgets.footer import Footer
from magic_tui.widgets.header import Header
from magic_tui.widgets.selection import Selection

Severity = Literal["information", "warning", "error"]


class Dashboard(Protocol):
    """What a screen uses of the application."""

    selection: Selection
    last_config: Path | None

    @property
    def has_colour(self) -> bool:
        """Whether colour may carry meaning."""

    @property
    def current_screen(self) -> "MagicScreen | None":
        """The topmost screen that is not a dialog."""

    def engine(self) -> Engine:
        """The engine, started if necessary; blocks."""

    def start_engine(self) -> Engine:
        """The engine, started even after ``magic engine stop``; blocks."""

    def select(self, **changes: Any) -> None:
        """Replace fields of the selection and update the current screen."""

    def open_screen(self, number: int) -> None:
        """Open a numbered screen."""

    def action_out(self) -> None:
        """Return to the previous screen."""

    def show_message(
        self, sentence: str, severity: Severity = "information", seconds: float = 6.0
    ) -> None:
        """Show a sentence for some seconds."""

    def copy(self, text: str, name: str, note: str = "") -> Any:
        """Copy a text to the clipboard, to tmux and to a file."""

    def page(self, text: str) -> None:
        """Show a text in the user's pager."""


class ProblemLine(Static):
    """One warning, wrapped; takes no space while there is none."""

    DEFAULT_CSS = """
    ProblemLine { display: none; height: auto; max-height: 4; padding: 0 1; color: $warning; }
    """

    sentence: str | None = None

    def set_sentence(self, sentence: str | None) -> None:
        """Show a sentence; None hides the line."""
        if sentence == self.sentence:
            return
        self.sentence = sentence
        self.display = sentence is not None
        self.update(Content(f"! {one_line(sentence)}" if sentence else ""))


class MagicScreen(Screen[None]):
    """A screen of the dashboard."""

    NUMBER: ClassVar[int] = 0
    NAME: ClassVar[str] = ""
    ABOUT: ClassVar[str] = ""
    """One or two sentences for the help screen."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "cli", "command", show=False, tooltip="Copy the equivalent command."),
    ]
    DEFAULT_CSS = """
    MagicScreen { layout: vertical; overflow: hidden; }
    """

    _applied: Selection | None = None
    _clears_on_key = False
    """Whether the problem shown concerns the last key only."""

    @property
    def magic(self) -> Dashboard:
        """The application with its own type."""
        return cast("Dashboard", self.app)

    @property
    def selection(self) -> Selection:
        """The shared selection."""
        return self.magic.selection

    def compose(self) -> ComposeResult:
        """Header, body, problem line, footer."""
        yield Header()
        yield from self.body()
        yield ProblemLine()
        yield Footer()

    def body(self) -> ComposeResult:
        """The regions of this screen."""
        yield from ()

    def selection_changed(self, selection: Selection) -> None:
        """Show a selection; called when the screen opens and when the selection changes."""

    def cli_equivalent(self) -> str:
        """The command that prints the content of this screen."""
        return "magic ls"

    def cli_note(self) -> str:
        """What the screen shows and the command does not, such as ``without the search``."""
        return ""

    def go_to(self, number: int) -> None:
        """Open another screen from this one."""
        self.magic.open_screen(number)

    def disabled_reason(self, action: str) -> str | None:
        """Why an action (``copy`` for ``action_copy``) is disabled; None if it is enabled.

        The footer dims the key of a disabled action; pressing the key shows this sentence.
        """
        return None

    def show_problem(self, sentence: str | None) -> None:
        """Show what is wrong above the footer; None clears it."""
        for line in self.query(ProblemLine):
            line.set_sentence(sentence)

    def show_key_problem(self, sentence: str | None) -> None:
        """Show what is wrong with the last key's action until the next key."""
        self.show_problem(sentence)
        self._clears_on_key = sentence is not None

    def on_key(self, event: events.Key) -> None:
        """Clear the problem of the previous key."""
        if self._clears_on_key:
            self.show_key_problem(None)

    def apply_selection(self, selection: Selection, again: bool = False) -> None:
        """Update header and body unless this selection is already applied."""
        if not self.is_mounted or (selection == self._applied and not again):
            return
        self._applied = selection
        self.query_one(Header).update(selection)
        self.selection_changed(selection)
        self.refresh_bindings()

    def invalidate_selection(self) -> None:
        """Apply the selection again when the screen is next shown."""
        self._applied = None

    def on_screen_resume(self, event: events.ScreenResume) -> None:
        """Apply the current selection."""
        self.apply_selection(self.selection)

    def on_screen_suspend(self, event: events.ScreenSuspend) -> None:
        """Apply the selection again on return, except from a dialog."""
        if self.magic.current_screen is not self:
            self.invalidate_selection()

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Show the error of a worker that raised unexpectedly."""
        error = event.worker.error
        if event.state is WorkerState.ERROR and error is not None:
            name = type(error).__name__
            self.show_problem(f"{name}: {error}" if str(error) else name)

    def call_from_worker(self, callback: Callable[..., Any], *arguments: Any) -> bool:
        """Call ``callback`` in the app unless the current worker is cancelled or the screen gone.

        Returns:
            Whether it was called.
        """
        if get_current_worker().is_cancelled or not self.is_mounted:
            return False
        self.app.call_from_thread(callback, *arguments)
        return True

    def action_cli(self) -> None:
        """Copy the equivalent command and show it."""
        self.magic.copy(self.cli_equivalent(), "command", self.cli_note())
