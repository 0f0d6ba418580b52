"""A one-line input above the footer: a filter, a place to go to, a value."""

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


class OrderedInput(Input):
    """An input that handles keys in the order they are typed, and pastes whole texts."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "submit", tooltip="Submit the line."),
    ]

    _rendered = ("", "")
    """The value and its safe form."""

    async def action_submit(self) -> None:
        """Submit after the keys typed before: bound keys otherwise overtake unbound ones."""
        self.call_later(super().action_submit)

    def _on_paste(self, event: events.Paste) -> None:
        """Insert the whole paste; :class:`Input` keeps its first line only."""
        # Terminals send a carriage return for every line feed.
        pasted = event.text.replace("\r\n", "\n").replace("\r", "\n")
        self.replace(pasted.encode(errors="replace").decode(), *sorted(self.selection))
        event.stop()
        # Input's own handler would paste again.
        event.prevent_default()

    @property
    def _value(self) -> Text:
        return Text(self._safe(), no_wrap=True, overflow="ignore", end="")

    def _position_to_cell(self, position: int) -> int:
        return cell_len(self._safe()[:position])

    def _safe(self) -> str:
        """The value as drawn: pasted text may contain control characters."""
        if self._rendered[0] != self.value:
            self._rendered = self.value, same_length(self.value)
        return self._rendered[1]


class Prompt(Horizontal):
    """Hidden until :meth:`open` is called."""

    DEFAULT_CSS = """
    Prompt { display: none; height: 1; background: $surface; }
    Prompt Static { width: auto; padding: 0 1; color: $accent; text-style: bold; }
    Prompt Input { width: 1fr; height: 1; border: none; padding: 0; background: $surface; }
    Prompt Input:focus { border: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "cancel", tooltip="Cancel."),
    ]

    _submitted: Callable[[str], None] | None = None
    _changed: Callable[[str], None] | None = None
    _focused_before: Widget | None = None
    _initial = ""

    def compose(self) -> ComposeResult:
        """A label and the input."""
        yield Static()
        yield OrderedInput()

    def open(
        self,
        label: str,
        value: str,
        submitted: Callable[[str], None],
        changed: Callable[[str], None] | None = None,
    ) -> None:
        """Open the prompt.

        Args:
            label: the label.
            value: the initial value.
            submitted: receives the line on enter.
            changed: receives the value after every key, and the initial value on cancel.
        """
        self._submitted, self._changed, self._initial = submitted, changed, value
        self._focused_before = self.screen.focused
        self.query_one(Static).update(Content(one_line(label)))
        line = self.query_one(Input)
        with line.prevent(Input.Changed):
            line.value = value
        self.display = True
        # Widget.focus is deferred: keys typed at once would still go to the screen.
        self.screen.set_focus(line)
        line.cursor_position = len(value)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Pass the value on."""
        event.stop()
        if self.display and self._changed is not None:
            self._changed(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Close and pass the line on."""
        event.stop()
        self._close()
        if self._submitted is not None:
            self._submitted(event.value)

    def action_leave(self) -> None:
        """Close without a change."""
        self._close()
        if self._changed is not None:
            self._changed(self._initial)

    def _close(self) -> None:
        self.display = False
        if self._focused_before is not None and self._focused_before.is_attached:
            self._focused_before.focus()
