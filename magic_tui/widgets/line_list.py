"""A list of lines with a cursor: only those on screen are made."""

from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

_CURSOR_SIGN, _MARK_SIGN = "▸", "◆"


class LineList(ScrollView, can_focus=True):
    """Subclasses give :meth:`count` and :meth:`line`; the two cells before a line are ours."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"line-list--cursor"}
    DEFAULT_CSS = """
    LineList { height: 1fr; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0; }
    LineList > .line-list--cursor { background: $surface-lighten-1; text-style: bold; }
    LineList:focus > .line-list--cursor { background: $block-cursor-background; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", "down", show=False, tooltip="One line down."),
        Binding("up,k", "move(-1)", "up", show=False, tooltip="One line up."),
        Binding("pagedown,ctrl+f,ctrl+d", "page(1)", show=False, tooltip="One page down."),
        Binding("pageup,ctrl+u", "page(-1)", show=False, tooltip="One page up."),
        Binding("g,home", "ends(0)", show=False, tooltip="To the first line."),
        Binding("G,end", "ends(1)", show=False, tooltip="To the last line."),
        Binding("enter,l,right", "choose", "open", tooltip="Open what is under the cursor."),
    ]

    class Moved(Message):
        """The cursor stands on another line."""

        def __init__(self, index: int) -> None:
            """Tell where."""
            super().__init__()
            self.index = index

    class Chosen(Moved):
        """The line under the cursor was chosen."""

    def __init__(self, id: str | None = None) -> None:
        """An empty list with the cursor on its first line."""
        super().__init__(id=id)
        self.cursor = 0
        self.marked: set[int] = set()

    def count(self) -> int:
        """How many lines there are."""
        raise NotImplementedError

    def line(self, index: int, width: int) -> Text:
        """One line, safe to show; what is beyond ``width`` cells is cut off."""
        raise NotImplementedError

    def changed(self) -> None:
        """Show the lines anew: there are more, fewer or others."""
        self.cursor = max(0, min(self.cursor, self.count() - 1))
        self.virtual_size = Size(self.size.width, self.count())
        self.refresh()

    def move_to(self, index: int) -> None:
        """Put the cursor on a line and bring that into view."""
        index = max(0, min(index, self.count() - 1))
        if index != self.cursor:
            self.cursor = index
            self.post_message(self.Moved(index))
        self.scroll_to_region(
            Region(0, index, 1, 1), animate=False, force=True, immediate=True, x_axis=False
        )
        self.refresh()

    def on_resize(self, event: events.Resize) -> None:
        """The same lines in another width."""
        self.changed()
        self.move_to(self.cursor)

    def on_click(self, event: events.Click) -> None:
        """Put the cursor where the mouse is; chosen by a second click."""
        index = event.y + self.scroll_offset.y
        if index >= self.count():
            return
        if index == self.cursor:
            self.action_choose()
        self.move_to(index)

    def render_line(self, y: int) -> Strip:
        """One line of the window."""
        index, width = y + self.scroll_offset.y, self.scrollable_content_region.width
        if index >= self.count():
            return Strip.blank(width, self.rich_style)
        here = index == self.cursor
        text = Text(_CURSOR_SIGN if here else " ", no_wrap=True, end="")
        text.append(_MARK_SIGN if index in self.marked else " ")
        text.append_text(self.line(index, width - 2))
        style = self.get_component_rich_style("line-list--cursor") if here else self.rich_style
        strip = Strip(text.render(self.app.console)).adjust_cell_length(width)
        return strip.apply_style(style if here else style + Style(bold=None))

    def action_move(self, lines: int) -> None:
        """Move the cursor."""
        self.move_to(self.cursor + lines)

    def action_page(self, pages: int) -> None:
        """Move the cursor by pages."""
        self.move_to(self.cursor + pages * max(1, self.size.height - 1))

    def action_ends(self, last: int) -> None:
        """Move the cursor to the first or the last line."""
        self.move_to(self.count() - 1 if last else 0)

    def action_choose(self) -> None:
        """Choose the line under the cursor."""
        if self.count():
            self.post_message(self.Chosen(self.cursor))
