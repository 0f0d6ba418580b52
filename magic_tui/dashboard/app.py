"""The dashboard application: one engine, one selection, numbered screens."""

import contextlib
import importlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.filter import LineFilter
from textual.reactive import reactive
from textual.screen import Screen
from textual.worker import get_current_worker

from engine.runs import paths
from engine.runs.errors import MagicError
from engine.runs.paths import runs_folder
from engine.runs.safe_text import one_line
from magic_tui.client.engine import Engine, connect
from magic_tui.dashboard.cell_diff import CellDiffApp
from magic_tui.dashboard.external import copy_everywhere, open_pager
from magic_tui.dashboard.line_filters import AsciiGlyphs, LightColours, supports_unicode
from magic_tui.dashboard.startup import preload
from magic_tui.dashboard.theme import ANSI_DARK, ANSI_LIGHT, DARK, LIGHT
from magic_tui.dashboard.type_ahead import TypeAheadApp
from magic_tui.widgets.footer import key_text
from magic_tui.widgets.screen import MagicScreen, Severity
from magic_tui.widgets.selection import Selection

WELCOME = 0
SCREENS: dict[int, str] = {
    WELCOME: "magic_tui.runs.welcome_screen:WelcomeScreen",
    1: "magic_tui.runs.runs_screen:RunsScreen",
    2: "magic_tui.live.live_screen:LiveScreen",
    3: "magic_tui.queries.queries_screen:QueriesScreen",
    4: "magic_tui.explore.influences_screen:InfluencesScreen",
    5: "magic_tui.explore.document_screen:DocumentScreen",
    6: "magic_tui.explore.why_screen:WhyScreen",
    7: "magic_tui.explore.over_training_screen:OverTrainingScreen",
    8: "magic_tui.trust.trust_screen:TrustScreen",
}
"""Module and class of each numbered screen, imported when first opened."""
NAMES = (
    *("Welcome", "Runs", "Live", "Queries", "Influences", "Document"),
    *("Why", "Over training", "Trust"),
)
_HISTORY = 9
_ERROR_FILE = "dashboard-error.log"


class MagicApp(CellDiffApp, TypeAheadApp):
    """``magic tui``. Its state is the selection; all content comes from the engine or from disk."""

    TITLE = "magic"
    CSS = """
    Toast { width: 70; max-width: 90%; padding: 0 1; margin: 0; border-left: outer $primary; }
    ToastRack { align: right bottom; margin-bottom: 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(n), f"app.screen({n})", NAMES[n], show=False, tooltip=f"Open {NAMES[n]}.")
            for n in range(1, 9)
        ),
        Binding("escape", "app.out", "out", show=False, tooltip="Previous screen."),
        Binding("question_mark", "app.help", "help", tooltip="Keys of this screen."),
        Binding("q", "app.quit", "quit", tooltip="Quit the dashboard; runs continue."),
        Binding("ctrl+l", "app.redraw", show=False, priority=True, tooltip="Redraw the screen."),
        Binding("ctrl+c", "app.no_interrupt", show=False, system=True, priority=True),
    ]

    selection: reactive[Selection] = reactive(lambda: Selection(runs_folder(None)), init=False)

    def __init__(
        self,
        runs_dir: Path | None = None,
        run: str | None = None,
        start: int = 1,
        connector: Callable[[Path | None], Engine] = connect,
    ) -> None:
        """Create the dashboard for a folder of runs.

        Args:
            runs_dir: folder of the runs; None for the default.
            run: id of the selected run.
            start: number of the first screen; 0 is the welcome screen.
            connector: connects to the engine.
        """
        # With NO_COLOR nothing may depend on colour alone, not even on grey.
        super().__init__(ansi_color=True if os.environ.get("NO_COLOR") is not None else None)
        self.animation_level = "none"
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self.theme = DARK.name
        self.ansi_theme_dark, self.ansi_theme_light = ANSI_DARK, ANSI_LIGHT
        folder = runs_folder(runs_dir).absolute()
        self.set_reactive(MagicApp.selection, Selection(folder, run))
        self.last_config: Path | None = None
        self._start = start
        self._history: list[int] = []
        self._connector = connector
        self._engine: Engine | None = None
        self._connecting = threading.Lock()
        self._ascii = AsciiGlyphs(enabled=not supports_unicode())
        self._light = LightColours(enabled=False)

    @property
    def has_colour(self) -> bool:
        """Whether colour may carry meaning."""
        return not self.no_color

    def engine(self) -> Engine:
        """The engine, started if necessary. Blocks: call it from thread workers only.

        Raises:
            UnreachableError: if no engine can be reached.
        """
        with self._connecting:
            if self._engine is None:
                self._engine = self._connector(self.selection.runs_dir)
            return self._engine

    def start_engine(self) -> Engine:
        """The engine, started even after ``magic engine stop``. Blocks."""
        with self._connecting:
            self._engine = self._connector(self.selection.runs_dir)
            return self._engine

    def select(self, **changes: Any) -> None:
        """Replace fields of the selection and update the current screen."""
        self.selection = self.selection.with_changes(**changes)

    def watch_selection(self, selection: Selection) -> None:
        """Update the current screen."""
        if self.current_screen is not None:
            self.current_screen.apply_selection(selection)

    @property
    def current_screen(self) -> MagicScreen | None:
        """The topmost screen that is not a dialog."""
        return next((s for s in self.screen_stack[::-1] if isinstance(s, MagicScreen)), None)

    @property
    def _base(self) -> MagicScreen | None:
        """The numbered screen at the bottom of the stack."""
        return next((s for s in self.screen_stack if isinstance(s, MagicScreen)), None)

    def open_screen(self, number: int) -> None:
        """Open a numbered screen."""
        base = self._base
        if base is not None and number != base.NUMBER:
            earlier = [n for n in self._history if n != base.NUMBER]
            self._history = [*earlier[1 - _HISTORY :], base.NUMBER]
        self._switch_to(number)

    action_screen = open_screen

    def on_mount(self) -> None:
        """Open the first screen."""
        self.push_screen(self._numbered_screen(self._start))

    def on_ready(self) -> None:
        """Import the other screens' modules once the first frame is drawn."""
        self._preload()

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's filters, then ours."""
        self._light.enabled = not self.current_theme.dark and self.has_colour
        return [*super().get_line_filters(), self._ascii, self._light]

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The command palette: screens, the current screen's actions, colours."""
        return self._palette(screen)

    async def run_action(
        self, action: Any, default_namespace: Any = None, namespaces: Any = None
    ) -> bool:
        """Run an action; show the reason if it is disabled."""
        if isinstance(action, str) and isinstance(self.screen, MagicScreen):
            reason = self.screen.disabled_reason(action.split("(")[0].split(".")[-1])
            if reason is not None:
                self.show_message(reason, "warning")
                return True
        return await super().run_action(action, default_namespace, namespaces)

    def show_message(
        self, sentence: str, severity: Severity = "information", seconds: float = 6.0
    ) -> None:
        """Show a sentence for some seconds, in place of the previous one."""
        self.clear_notifications()
        self.notify(one_line(sentence), severity=severity, markup=False, timeout=seconds)

    @work(thread=True, exclusive=True, group="copy", exit_on_error=False)
    def copy(self, text: str, name: str, note: str = "") -> None:
        """Copy a text to clipboard, tmux and a file; show the destinations.

        Args:
            text: the text.
            name: one word for it; part of the file's name.
            note: a remark on a command, such as ``without the search``.
        """
        self.call_from_thread(self.copy_to_clipboard, text)
        destinations = copy_everywhere(text, name)
        message = f"{name} copied to {', '.join(destinations)}"
        if name == "command":
            message = f"copied{note and f' ({note})'}: {text}"
        self.call_from_thread(self.show_message, message)

    def page(self, text: str) -> None:
        """Show a text in the user's pager and wait for it to close."""
        problem = open_pager(self, text)
        if problem is not None:
            self.show_message(problem, "warning")

    def action_out(self) -> None:
        """Return to the previous screen."""
        if self._history:
            self._switch_to(self._history.pop())
        elif self.current_screen is not None and self.current_screen.NUMBER > 1:
            self._switch_to(1)

    def action_help(self) -> None:
        """Show the keys of the current screen."""
        from magic_tui.dashboard.help import HelpScreen

        if self.current_screen is not None:
            self.push_screen(HelpScreen(self.current_screen))

    def action_new(self) -> None:
        """Open the New run screen."""
        from magic_tui.runs.new_run_screen import NewRunScreen

        self.push_screen(NewRunScreen())

    def action_light(self) -> None:
        """Switch between the dark and the light theme."""
        self.theme = LIGHT.name if self.theme == DARK.name else DARK.name

    def action_no_interrupt(self) -> None:
        """Ctrl+c is disabled."""
        self.show_message("ctrl+c does nothing here; q quits, runs continue")

    @work(thread=True, group="preload", exit_on_error=False)
    def _preload(self) -> None:
        worker = get_current_worker()
        preload((place.split(":")[0] for place in SCREENS.values()), lambda: worker.is_cancelled)

    def _palette(self, screen: Screen[Any]) -> Iterator[SystemCommand]:
        current = self.current_screen
        go_to = self.open_screen if current is None else current.go_to
        for number in range(1, len(NAMES)):
            title = f"{number} {NAMES[number]}"
            yield SystemCommand(title, f"Open screen {number}", partial(go_to, number))
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.tooltip and not binding.system and not binding.key.isdigit():
                run = partial(self.run_action, binding.action, active.node)
                key = f"Key: {key_text(binding.key)}"
                yield SystemCommand(binding.tooltip.rstrip("."), key, run)
        yield SystemCommand("Start a run from a config", "Shows its cost first", self.action_new)
        yield SystemCommand("Light or dark", "Switch the colours", self.action_light)

    def _switch_to(self, number: int) -> None:
        screen, base = self._numbered_screen(number), self._base
        while base is not None and self.screen is not base:
            self.pop_screen()
        screen.invalidate_selection()
        if screen is base:
            screen.apply_selection(self.selection)
        else:
            self.switch_screen(screen)

    def _numbered_screen(self, number: int) -> MagicScreen:
        name = f"screen-{number}"
        if self.is_screen_installed(name):
            installed = self.get_screen(name)
            assert isinstance(installed, MagicScreen)
            return installed
        module, attribute = SCREENS[number].split(":")
        screen = getattr(importlib.import_module(module), attribute)()
        assert isinstance(screen, MagicScreen)
        self.install_screen(screen, name)
        return screen

    def _fatal_error(self) -> None:
        """Close after an unexpected error with one sentence instead of a traceback."""
        error = sys.exception()
        if error is not None and not self._exit_renderables:
            self.panic(Text(save_traceback(error, traceback.format_exc())))


def save_traceback(error: BaseException, trace: str) -> str:
    """Write an unexpected error's traceback to a file; returns the sentence for the user."""
    name = type(error).__name__
    with contextlib.suppress(OSError, MagicError):
        path = paths.state_folder() / _ERROR_FILE
        path.write_text(f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{trace}", errors="replace")
        path.chmod(0o600)
        where = one_line(str(path))
        return f"magic tui closed after an error ({name}); runs continue. Please report {where}"
    reason = f"{name}: {one_line(str(error))}"
    return f"magic tui closed after an error ({reason}); runs continue. Please report it"
