"""What all screens of the dashboard have: a head, a place for problems, and the keys at the foot.

A screen yields its regions from :meth:`MagicScreen.body`. Everything slow happens in thread
workers (``exit_on_error=False``); what cannot be read is told with :meth:`MagicScreen.problem`.
"""

from typing import TYPE_CHECKING, ClassVar, cast

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.worker import Worker, WorkerState

from magic_tui.dashboard.footer import Footer
from magic_tui.dashboard.header import Header
from magic_tui.dashboard.problem_line import ProblemLine
from magic_tui.dashboard.selection import Selection

if TYPE_CHECKING:
    from magic_tui.dashboard.app import MagicApp


class MagicScreen(Screen[None]):
    """One of the numbered screens."""

    NUMBER: ClassVar[int] = 0
    NAME: ClassVar[str] = ""
    ABOUT: ClassVar[str] = ""
    """One or two sentences for the help: what is seen here."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "cli", "command", show=False, tooltip="Show and copy the same as a command."),
    ]
    DEFAULT_CSS = """
    MagicScreen { layout: vertical; overflow: hidden; }
    """

    _told: Selection | None = None
    _is_passing = False
    """Whether what is said to be wrong is about the last key only."""

    @property
    def magic(self) -> "MagicApp":
        """The app, by its own type."""
        return cast("MagicApp", self.app)

    @property
    def selection(self) -> Selection:
        """What the dashboard looks at now."""
        return self.magic.selection

    def compose(self) -> ComposeResult:
        """The head, the body of the screen, what is wrong, the keys."""
        yield Header()
        yield from self.body()
        yield ProblemLine()
        yield Footer()

    def body(self) -> ComposeResult:
        """The regions of this screen."""
        yield from ()

    def selection_changed(self, selection: Selection) -> None:
        """Show another selection; called on show and on every change while shown."""

    def cli_equivalent(self) -> str:
        """The command that prints what this screen shows."""
        return "magic ls"

    def cli_lacks(self) -> str:
        """What is on screen that the command does not print, as ``without the search``."""
        return ""

    def go_to(self, number: int) -> None:
        """Go to another screen from here."""
        self.magic.open_screen(number)

    def why_not(self, action: str) -> str | None:
        """Why an action (``copy`` of ``action_copy``) is impossible now; None if it is possible.

        The key of such an action is dim at the foot, and pressing it shows this sentence.
        """
        return None

    def problem(self, sentence: str | None) -> None:
        """Say in place what is wrong; None takes it away."""
        for line in self.query(ProblemLine):
            line.show(sentence)

    def problem_of_key(self, sentence: str | None) -> None:
        """Say what went wrong with what a key asked for, until the next key."""
        self.problem(sentence)
        self._is_passing = sentence is not None

    def on_key(self, event: events.Key) -> None:
        """Take away what the key before made us say."""
        if self._is_passing:
            self.problem_of_key(None)

    def tell(self, selection: Selection, again: bool = False) -> None:
        """Pass a selection on to the head and the screen, unless it has been already."""
        if not self.is_mounted or (selection == self._told and not again):
            return
        self._told = selection
        self.query_one(Header).show(selection)
        self.selection_changed(selection)
        self.refresh_bindings()

    def forget(self) -> None:
        """Be told the selection again when next shown."""
        self._told = None

    def on_screen_resume(self, event: events.ScreenResume) -> None:
        """Show what is selected now."""
        self.tell(self.selection)

    def on_screen_suspend(self, event: events.ScreenSuspend) -> None:
        """Be told the selection again on coming back, unless this is only under a dialog."""
        if self.magic.shown is not self:
            self.forget()

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Say it if a worker ended in an error that nobody foresaw."""
        error = event.worker.error
        if event.state is WorkerState.ERROR and error is not None:
            self.problem(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)

    def action_cli(self) -> None:
        """Show and copy the command that prints the same."""
        self.magic.copy(self.cli_equivalent(), "command", self.cli_lacks())
