"""One line at the foot of a screen to type into: a filter, a place to go to, a value."""

from collections.abc import Callable
from typing import ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Input, Static

from engine.runs.safe_text import one_line, same_length


class TypedLine(Input):
    """A line that takes keys in the order they were typed, however fast they come."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "take", tooltip="Take the line."),
    ]

    _drawn = ("", "")
    """The value, and what is drawn of it."""

    async def action_submit(self) -> None:
        """Submit behind what was typed before: a key that is bound overtakes those that are not."""
        self.call_later(super().action_submit)

    def _on_paste(self, event: events.Paste) -> None:
        """Take all that was pasted, as :class:`Input` does not: a text may have several lines."""
        # Terminals send a carriage return for every line feed.
        pasted = event.text.replace("\r\n", "\n").replace("\r", "\n")
        self.replace(pasted.encode(errors="replace").decode(), *sorted(self.selection))
        event.stop()
        # It would paste once more what Input's own handler takes.
        event.prevent_default()

    @property
    def _value(self) -> Text:
        return Text(self._safe(), no_wrap=True, overflow="ignore", end="")

    def _position_to_cell(self, position: int) -> int:
        return cell_len(self._safe()[:position])

    def _safe(self) -> str:
        """What is drawn of the value: what was pasted may hold anything."""
        if self._drawn[0] != self.value:
            self._drawn = self.value, same_length(self.value)
        return self._drawn[1]


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
