"""A list of any length with a cursor; only the visible lines are rendered."""

from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

CURSOR_SIGN, MARK_SIGN = "▸", "◆"


class VirtualList(ScrollView, can_focus=True):
    """Subclasses implement :meth:`count` and :meth:`line`.

    The first two cells of a line show the cursor and the mark. Textual's ``OptionList`` and
    ``DataTable`` hold every row in memory, which rules them out for scores.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"virtual-list--cursor"}
    DEFAULT_CSS = """
    VirtualList {
        height: 1fr; overflow-x: hidden;
        scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0;
    }
    VirtualList > .virtual-list--cursor { background: $surface-lighten-1; text-style: bold; }
    VirtualList:focus > .virtual-list--cursor { background: $block-cursor-background; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", "down", show=False, tooltip="One line down."),
        Binding("up,k", "move(-1)", "up", show=False, tooltip="One line up."),
        Binding("pagedown,ctrl+f", "page(1)", show=False, tooltip="One page down."),
        Binding("pageup", "page(-1)", show=False, tooltip="One page up."),
        Binding("ctrl+d", "page(0.5)", show=False, tooltip="Half a page down."),
        Binding("ctrl+u", "page(-0.5)", show=False, tooltip="Half a page up."),
        Binding("g,home", "ends(0)", show=False, tooltip="First line."),
        Binding("G,end", "ends(1)", show=False, tooltip="Last line."),
        Binding("enter,l,right", "choose", "open", tooltip="Open the line under the cursor."),
    ]

    class Moved(Message):
        """The cursor moved."""

        def __init__(self, index: int) -> None:
            """The cursor is on line ``index``."""
            super().__init__()
            self.index = index

    class Chosen(Moved):
        """Enter was pressed on a line, or the line was clicked twice."""

    def __init__(self, id: str | None = None) -> None:
        """An empty list."""
        super().__init__(id=id)
        self.cursor = 0
        self.marked: set[int] = set()

    def count(self) -> int:
        """Number of lines."""
        raise NotImplementedError

    def line(self, index: int, width: int) -> Text:
        """One line of safe text; cells beyond ``width`` are cut off."""
        raise NotImplementedError

    def is_marked(self, index: int) -> bool:
        """Whether a line is marked."""
        return index in self.marked

    @property
    def line_width(self) -> int:
        """Cells of a line, without the scroll bar."""
        return self.scrollable_content_region.width

    def reload(self) -> None:
        """Redraw after lines were added, removed or replaced."""
        self.cursor = max(0, min(self.cursor, self.count() - 1))
        self.virtual_size = Size(self.line_width, self.count())
        self.refresh()

    def move_to(self, index: int) -> None:
        """Move the cursor to a line and scroll it into view."""
        before, self.cursor = self.cursor, max(0, min(index, self.count() - 1))
        if not self.scroll_to_cursor():
            self.refresh_lines(before, 1)
            self.refresh_lines(self.cursor, 1)
        if before != self.cursor:
            self.post_message(self.Moved(self.cursor))

    def scroll_to_cursor(self) -> bool:
        """Scroll the cursor into view; returns whether that was necessary."""
        height, top = max(1, self.size.height), self.scroll_offset.y
        if top <= self.cursor < top + height:
            return False
        target = self.cursor if self.cursor < top else self.cursor - height + 1
        self.scroll_to(y=target, animate=False, force=True, immediate=True)
        self.refresh()
        return True

    def on_resize(self, event: events.Resize) -> None:
        """Lay out again."""
        self.reload()
        self.scroll_to_cursor()

    def on_click(self, event: events.Click) -> None:
        """Move the cursor to the mouse; a click on the cursor chooses its line."""
        index = event.y + self.scroll_offset.y
        if index >= self.count():
            return
        if index == self.cursor:
            self.action_choose()
        self.move_to(index)

    def render_line(self, y: int) -> Strip:
        """One visible line."""
        index, width = y + self.scroll_offset.y, self.line_width
        if index >= self.count():
            return Strip.blank(width, self.rich_style)
        current = index == self.cursor
        text = Text(CURSOR_SIGN if current else " ", no_wrap=True, end="")
        text.append(MARK_SIGN if self.is_marked(index) else " ")
        text.append_text(self.line(index, width - 2))
        style = self.rich_style
        if current:
            style = self.get_component_rich_style("virtual-list--cursor")
        strip = Strip(text.render(self.app.console)).adjust_cell_length(width)
        return strip.apply_style(style if current else style + Style(bold=None))

    def action_move(self, lines: int) -> None:
        """Move the cursor by lines."""
        self.move_to(self.cursor + lines)

    def action_page(self, pages: float) -> None:
        """Move cursor and viewport by pages."""
        lines = int(pages * max(1, self.size.height - 1))
        self.scroll_to(y=self.scroll_offset.y + lines, animate=False, immediate=True)
        self.move_to(self.cursor + lines)
        self.refresh()

    def action_ends(self, last: int) -> None:
        """Move the cursor to the first or the last line."""
        self.move_to(self.count() - 1 if last else 0)

    def action_choose(self) -> None:
        """Choose the line under the cursor."""
        if self.count():
            self.post_message(self.Chosen(self.cursor))
