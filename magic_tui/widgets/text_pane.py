"""Lines of text to scroll through, with a cursor that goes from document to document."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from magic_tui.widgets.lines import text_strip


class TextPane(ScrollView, can_focus=True):
    """A text of which some lines begin to tell of a document."""

    DEFAULT_CSS = """
    TextPane {
        height: 1fr; scrollbar-size-vertical: 1; scrollbar-gutter: stable;
        overflow-x: hidden; padding: 0 1;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open", tooltip="Open the document under the cursor."),
        Binding("n", "next(1)", show=False, tooltip="Next document."),
        Binding("N", "next(-1)", show=False, tooltip="Document before."),
        Binding("j,down", "line(1)", show=False, tooltip="On, document by document."),
        Binding("k,up", "line(-1)", show=False, tooltip="Back, document by document."),
        Binding("pagedown,ctrl+f,ctrl+d", "page(1)", show=False, tooltip="A page on."),
        Binding("pageup,ctrl+u", "page(-1)", show=False, tooltip="A page back."),
        Binding("g,home", "to_end(False)", show=False, tooltip="To the beginning."),
        Binding("G,end", "to_end(True)", show=False, tooltip="To the end."),
    ]

    @dataclass
    class Opened(Message):
        """The user wants to see a document."""

        document: int

    def __init__(self) -> None:
        """Blank."""
        super().__init__()
        self._lines: list[Text] = []
        self._anchors: list[tuple[int, int]] = []
        self._current = 0

    @property
    def document(self) -> int | None:
        """The document under the cursor."""
        return self._anchors[self._current][1] if self._anchors else None

    def show(self, lines: Sequence[Text], documents: Sequence[int | None]) -> None:
        """Show other lines; ``documents`` names, line by line, those that they begin to tell of."""
        before = self.document
        self._lines = list(lines)
        self._anchors = [(n, d) for n, d in enumerate(documents) if d is not None]
        same = (i for i, (_, document) in enumerate(self._anchors) if document == before)
        self._current = next(same, 0)
        self.virtual_size = Size(self.scrollable_content_region.width, len(self._lines))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line; the one under the cursor begins with a sign."""
        number, width = y + self.scroll_offset.y, self.scrollable_content_region.width
        if number >= len(self._lines):
            return Strip.blank(width, self.rich_style)
        line = self._lines[number]
        if self._anchors and number == self._anchors[self._current][0]:
            line = Text("▸", "bold").append_text(line[1:])
        return text_strip(line, self).adjust_cell_length(width, self.rich_style)

    def action_next(self, step: int) -> None:
        """The next document."""
        if self._anchors:
            self._current = min(max(0, self._current + step), len(self._anchors) - 1)
            self._keep_visible()
            self.refresh()

    def action_line(self, step: int) -> None:
        """The next document, or a line on where there is none."""
        if self._anchors and 0 <= self._current + step < len(self._anchors):
            self.action_next(step)
        else:
            self.scroll_to(y=self.scroll_offset.y + step, animate=False)

    def action_page(self, pages: int) -> None:
        """A page on."""
        height = max(1, self.size.height - 1)
        self.scroll_to(y=self.scroll_offset.y + pages * height, animate=False)

    def action_to_end(self, last: bool) -> None:
        """To the end or the beginning."""
        if self._anchors:
            self._current = len(self._anchors) - 1 if last else 0
        self.scroll_to(y=len(self._lines) if last else 0, animate=False)
        self.refresh()

    def action_open(self) -> None:
        """Ask for the document under the cursor."""
        if self.document is not None:
            self.post_message(self.Opened(self.document))

    def _keep_visible(self) -> None:
        line, height = self._anchors[self._current][0], max(1, self.size.height)
        top = self.scroll_offset.y
        if line < top or line + 4 > top + height:
            self.scroll_to(y=max(0, line - 2), animate=False)
