"""The log of a run: what its journal tells in words, and what its libraries printed."""

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual import events
from textual.binding import BindingType

from engine.runs.safe_text import one_line
from magic_tui.live.event_lines import story_lines
from magic_tui.text.cells import fit
from magic_tui.widgets.line_list import LineList


class StoryList(LineList, inherit_bindings=False):
    """Stays at its end until the cursor is moved up, and again once it is moved back there."""

    BINDINGS: ClassVar[list[BindingType]] = LineList.BINDINGS[:-1]
    DEFAULT_CSS = """
    StoryList > .line-list--cursor { background: $surface; text-style: none; }
    StoryList:focus > .line-list--cursor { background: $surface-lighten-1; text-style: none; }
    """

    def __init__(self) -> None:
        """Nothing happened yet."""
        super().__init__()
        self._events: Sequence[dict[str, Any]] = ()
        self._printed: Sequence[str] = ()
        self._lines: list[Text] = []

    def tell(self, happened: Sequence[dict[str, Any]]) -> None:
        """Tell these events."""
        if len(happened) != len(self._events) or self._printed:
            self._events, self._printed = happened, ()
            self._arrange()

    def print(self, lines: Sequence[str]) -> None:
        """Show what was printed instead."""
        if lines != self._printed or self._events:
            self._printed, self._events = lines or ("nothing was printed",), ()
            self._arrange()

    def on_resize(self, event: events.Resize) -> None:
        """Wrap anew."""
        self._arrange()

    def count(self) -> int:
        """How many lines."""
        return len(self._lines)

    def line(self, index: int, width: int) -> Text:
        """One line."""
        return self._lines[index]

    def _arrange(self) -> None:
        following = self.cursor >= len(self._lines) - 1
        width = max(10, self.size.width - 2)
        self._lines = [line for event in self._events for line in story_lines(event, width)]
        self._lines += [Text(fit(one_line(line), width), no_wrap=True) for line in self._printed]
        self.changed()
        if following and self._lines:
            self.move_to(len(self._lines) - 1)
