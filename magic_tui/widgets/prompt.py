"""One line at the foot of a screen to type into: a filter, a place to go to, a value."""

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Input, Static

from magic_tui.safe_text import one_line


class TypedLine(Input):
    """A line that takes keys in the order they were typed, however fast they come."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "take", tooltip="Take the line."),
    ]

    async def action_submit(self) -> None:
        """Submit behind what was typed before: a key that is bound overtakes those that are not."""
        self.call_later(super().action_submit)


class Prompt(Horizontal):
    """Hidden until :meth:`open` is called."""

    DEFAULT_CSS = """
    Prompt { display: none; height: 1; background: $surface; }
    Prompt Static { width: auto; padding: 0 1; color: $accent; text-style: bold; }
    Prompt Input { width: 1fr; height: 1; border: none; padding: 0; background: $surface; }
    Prompt Input:focus { border: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "leave", tooltip="Leave without a change."),
    ]

    _done: Callable[[str], None] | None = None
    _changed: Callable[[str], None] | None = None
    _before: Widget | None = None
    _first = ""

    def compose(self) -> ComposeResult:
        """A name and the line."""
        yield Static()
        yield TypedLine()

    def open(
        self,
        name: str,
        value: str,
        done: Callable[[str], None],
        changed: Callable[[str], None] | None = None,
    ) -> None:
        """Ask for a line; ``changed`` hears every key, and the first value again on leaving."""
        self._done, self._changed, self._first = done, changed, value
        self._before = self.screen.focused
        self.query_one(Static).update(Content(one_line(name)))
        line = self.query_one(Input)
        with line.prevent(Input.Changed):
            line.value = value
        self.display = True
        # Widget.focus comes later: keys typed at once would still go to the screen.
        self.screen.set_focus(line)
        line.cursor_position = len(value)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Pass on what is typed."""
        event.stop()
        if self.display and self._changed is not None:
            self._changed(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Take the line."""
        event.stop()
        self._close()
        if self._done is not None:
            self._done(event.value)

    def action_leave(self) -> None:
        """Leave without a change."""
        self._close()
        if self._changed is not None:
            self._changed(self._first)

    def _close(self) -> None:
        self.display = False
        if self._before is not None and self._before.is_attached:
            self._before.focus()
