"""The dashboard: one engine, one selection, eight screens."""

import importlib
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from textual import work
from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.filter import LineFilter
from textual.reactive import reactive
from textual.screen import Screen
from textual.worker import get_current_worker

from engine.runs.naming import runs_folder
from engine.runs.safe_text import one_line
from magic_tui.client.engine import Engine, connect
from magic_tui.dashboard.ascii_glyphs import AsciiGlyphs, speaks_unicode
from magic_tui.dashboard.cell_diff import ThinApp
from magic_tui.dashboard.copying import copy_everywhere
from magic_tui.dashboard.crash_note import CrashNoteApp
from magic_tui.dashboard.light_colours import LightColours
from magic_tui.dashboard.numbered import NAMES, SCREENS
from magic_tui.dashboard.paging import page
from magic_tui.dashboard.palette import commands
from magic_tui.dashboard.preload import warm_up
from magic_tui.dashboard.screen import MagicScreen
from magic_tui.dashboard.selection import Selection
from magic_tui.dashboard.theme import ANSI_DARK, ANSI_LIGHT, DARK, LIGHT
from magic_tui.dashboard.type_ahead import TypeAheadApp

Severity = Literal["information", "warning", "error"]


class MagicApp(ThinApp, TypeAheadApp, CrashNoteApp):
    """``magic tui``: holds names only; everything shown is read from the engine or from disk."""

    TITLE = "magic"
    CSS = """
    Toast { width: 70; max-width: 90%; padding: 0 1; margin: 0; border-left: outer $primary; }
    ToastRack { align: right bottom; margin-bottom: 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(n), f"app.screen({n})", NAMES[n], show=False, tooltip=f"Go to {NAMES[n]}.")
            for n in range(1, 9)
        ),
        Binding("escape", "app.out", "out", show=False, tooltip="Back to the screen before."),
        Binding("question_mark", "app.help", "help", tooltip="The keys of this screen."),
        Binding("q", "app.quit", "quit", tooltip="Leave; runs go on without the dashboard."),
        Binding("ctrl+l", "app.redraw", show=False, priority=True, tooltip="Draw the screen anew."),
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
        """A dashboard over the runs of a folder.

        Args:
            runs_dir: where runs live; the usual place if left out.
            run: id of the run to look at.
            start: number of the first screen; 0 is the welcome.
            connector: how to reach the engine.
        """
        # Without colour nothing may be drawn by colour alone: grey would be one.
        super().__init__(ansi_color=True if os.environ.get("NO_COLOR") is not None else None)
        self.animation_level = "none"
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self.theme = DARK.name
        self.ansi_theme_dark, self.ansi_theme_light = ANSI_DARK, ANSI_LIGHT
        folder = runs_folder(runs_dir).absolute()
        self.set_reactive(MagicApp.selection, Selection(folder, run))
        self._start = start
        self._history: list[int] = []
        self._connector = connector
        self._engine: Engine | None = None
        self.last_config: Path | None = None
        self._connecting = threading.Lock()
        self._plain = AsciiGlyphs(enabled=not speaks_unicode())
        self._light = LightColours(enabled=False)

    @property
    def has_colour(self) -> bool:
        """Whether colours may carry meaning."""
        return not self.no_color

    def engine(self) -> Engine:
        """The engine, started if none runs; blocks, so only for thread workers.

        Raises:
            UnreachableError: if none can be reached.
        """
        with self._connecting:
            if self._engine is None:
                self._engine = self._connector(self.selection.runs_dir)
            return self._engine

    def start_engine(self) -> Engine:
        """The engine, started even if it was stopped on purpose; blocks as well."""
        with self._connecting:
            self._engine = self._connector(self.selection.runs_dir)
            return self._engine

    def select(self, **changes: Any) -> None:
        """Replace fields of the selection and tell the screen that is shown."""
        self.selection = self.selection.with_changes(**changes)

    def watch_selection(self, selection: Selection) -> None:
        """Tell the screen that is shown."""
        if self.shown is not None:
            self.shown.tell(selection)

    @property
    def shown(self) -> MagicScreen | None:
        """The numbered screen that is shown, be it under a dialog."""
        return next((s for s in self.screen_stack[::-1] if isinstance(s, MagicScreen)), None)

    @property
    def _base(self) -> MagicScreen | None:
        """The numbered screen, be it under others."""
        return next((s for s in self.screen_stack if isinstance(s, MagicScreen)), None)

    def open_screen(self, number: int) -> None:
        """Go to a screen."""
        here = self._base
        if here is not None and number != here.NUMBER:
            before = [n for n in self._history if n != here.NUMBER]
            self._history = [*before[-8:], here.NUMBER]
        self._go(number)

    action_screen = open_screen

    def on_mount(self) -> None:
        """Show the first screen."""
        self.push_screen(self._made(self._start))

    def on_ready(self) -> None:
        """Load what other screens need, now that something is on screen."""
        self._warm_up()

    def get_line_filters(self) -> Sequence[LineFilter]:
        """What is drawn passes through these last."""
        self._light.enabled = not self.current_theme.dark and self.has_colour
        return [*super().get_line_filters(), self._plain, self._light]

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """What the palette offers."""
        return commands(self, screen)

    async def run_action(
        self, action: Any, default_namespace: Any = None, namespaces: Any = None
    ) -> bool:
        """Do an action, or say why that is impossible now."""
        if isinstance(action, str) and isinstance(self.screen, MagicScreen):
            reason = self.screen.why_not(action.split("(")[0].split(".")[-1])
            if reason is not None:
                self.say(reason, "warning")
                return True
        return await super().run_action(action, default_namespace, namespaces)

    def say(self, sentence: str, severity: Severity = "information", seconds: float = 6.0) -> None:
        """Show a sentence for a few seconds."""
        self.clear_notifications()
        self.notify(one_line(sentence), severity=severity, markup=False, timeout=seconds)

    @work(thread=True, exclusive=True, group="copy", exit_on_error=False)
    def copy(self, text: str, name: str, note: str = "") -> None:
        """Copy a text wherever a terminal may look for it, and say where it went.

        Args:
            text: what to copy.
            name: one word for what it is: part of the file's name.
            note: what is to be said of a command.
        """
        self.call_from_thread(self.copy_to_clipboard, text)
        places = copy_everywhere(text, name)
        went, said = f"{name} sent to {', '.join(places)}", f"copied{note and f' ({note})'}: {text}"
        self.call_from_thread(self.say, said if name == "command" else went)

    def page(self, text: str) -> None:
        """Show a text in the user's pager; the dashboard waits meanwhile."""
        problem = page(self, text)
        if problem is not None:
            self.say(problem, "warning")

    def action_out(self) -> None:
        """Go back to the screen before."""
        if self._history:
            self._go(self._history.pop())
        elif self.shown is not None and self.shown.NUMBER > 1:
            self._go(1)

    def action_help(self) -> None:
        """Show the keys of this screen."""
        from magic_tui.dashboard.help import HelpScreen

        if self.shown is not None:
            self.push_screen(HelpScreen(self.shown))

    def action_new(self) -> None:
        """Start a run from a config."""
        from magic_tui.runs.new_run_screen import NewRunScreen

        self.push_screen(NewRunScreen())

    def action_light(self) -> None:
        """Change between the dark and the light theme."""
        self.theme = LIGHT.name if self.theme == DARK.name else DARK.name

    def action_no_interrupt(self) -> None:
        """Say what ctrl+c does here: nothing."""
        self.say("ctrl+c does nothing here: q leaves, and runs go on")

    @work(thread=True, group="warm up", exit_on_error=False)
    def _warm_up(self) -> None:
        worker = get_current_worker()
        modules = (place.split(":")[0] for place in SCREENS.values())
        warm_up(modules, lambda: worker.is_cancelled)

    def _go(self, number: int) -> None:
        screen, base = self._made(number), self._base
        while base is not None and self.screen is not base:
            self.pop_screen()
        screen.forget()
        if screen is base:
            screen.tell(self.selection)
        else:
            self.switch_screen(screen)

    def _made(self, number: int) -> MagicScreen:
        name = f"screen-{number}"
        if self.is_screen_installed(name):
            known = self.get_screen(name)
            assert isinstance(known, MagicScreen)
            return known
        module, attribute = SCREENS[number].split(":")
        made = getattr(importlib.import_module(module), attribute)()
        assert isinstance(made, MagicScreen)
        self.install_screen(made, name)
        return made
