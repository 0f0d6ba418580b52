"""A document's text, its tokens coloured, one of them under the cursor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.timer import Timer

from engine.scores.document import Piece
from magic_tui.explore.layout import Layout
from magic_tui.text.tokens import NO_COLOURS, Colours, Shade, mark_text

_MARGIN = 1
_CURSOR = Style(reverse=True, bold=True)
_AT_ONCE = 150
"""Lines that are laid out in one go: more than any screen has."""
_REST_SECONDS = 0.02
_MOST_STRIPS = 1000
_STRONG = 2
"""The level from which a token is one to stop at."""


class TokenText(ScrollView, can_focus=True):
    """Laid out once a document and width; a strip is made when its line comes into view.

    Of a long document only what is on screen is laid out at once, and the rest in small parts.
    """

    DEFAULT_CSS = """
    TokenText {
        height: 1fr; scrollbar-size-vertical: 1; scrollbar-gutter: stable;
        overflow-x: hidden;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "strong(1)", "strong", tooltip="Next strong token."),
        Binding("N", "strong(-1)", show=False, tooltip="Strong token before."),
        Binding("l,right", "token(1)", show=False, tooltip="Next token."),
        Binding("h,left", "token(-1)", show=False, tooltip="Token before."),
        Binding("j,down", "line(1)", show=False, tooltip="Token below."),
        Binding("k,up", "line(-1)", show=False, tooltip="Token above."),
        Binding("pagedown,ctrl+f", "page(1)", show=False, tooltip="A page on."),
        Binding("pageup", "page(-1)", show=False, tooltip="A page back."),
        Binding("ctrl+d", "page(0.5)", show=False, tooltip="Half a page on."),
        Binding("ctrl+u", "page(-0.5)", show=False, tooltip="Half a page back."),
        Binding("g,home", "to_end(False)", show=False, tooltip="First token."),
        Binding("G,end", "to_end(True)", show=False, tooltip="Last token."),
    ]

    @dataclass
    class Moved(Message):
        """Another piece is under the cursor."""

        piece: int

    def __init__(self) -> None:
        """An empty sheet."""
        super().__init__()
        self.cursor = 0
        self.marks = False
        """Whether a line of marks stands below each line of text."""
        self._pieces: Sequence[Piece] = []
        self._colours = NO_COLOURS
        self._layout = Layout([], 1)
        self._strips: dict[int, Strip] = {}
        self._laying: Timer | None = None

    @property
    def room(self) -> int:
        """Cells of a line of text."""
        return max(4, self.scrollable_content_region.width - 2 * _MARGIN)

    @property
    def height(self) -> int:
        """Lines that the text takes, as far as it is laid out."""
        return self._height * len(self._layout.lines)

    def show(self, pieces: Sequence[Piece], colours: Colours, marks: bool) -> None:
        """Show a document, or the same one in other colours; the cursor then stays.

        Args:
            pieces: its text.
            colours: how to show each piece.
            marks: whether signs stand below the tokens.
        """
        other = pieces is not self._pieces and pieces != self._pieces
        self._pieces, self._colours, self.marks = pieces, colours, marks
        if other:
            self.cursor = 0
            self._lay_out()
            self.scroll_to(y=0, animate=False, force=True)
        self._resize()
        self.refresh()
        self.post_message(self.Moved(self.cursor))

    def go_to(self, piece: int) -> None:
        """Put the cursor on a piece and keep it in view."""
        if not self._pieces:
            return
        before, self.cursor = self.cursor, min(max(0, piece), len(self._pieces) - 1)
        for moved in (before, self.cursor):
            for line in self._layout.lines_of(moved):
                self._strips.pop(line * self._height, None)
                self.refresh_lines(line * self._height, 1)
        self._keep_cursor_visible()
        self.post_message(self.Moved(self.cursor))

    def render_line(self, y: int) -> Strip:
        """A line of text, or of the marks below it."""
        number = y + self.scroll_offset.y
        width = self.scrollable_content_region.width
        if len(self._strips) > _MOST_STRIPS:
            self._strips.clear()
        if number not in self._strips:
            self._strips[number] = self._line(number).adjust_cell_length(width, self.rich_style)
        return self._strips[number]

    def notify_style_update(self) -> None:
        """Other colours: what was drawn in the former ones is of no use."""
        super().notify_style_update()
        self._strips.clear()

    def on_resize(self, event: events.Resize) -> None:
        """Lay the text out anew."""
        self._lay_out()
        self._resize()
        self._keep_cursor_visible()

    def on_click(self, event: events.Click) -> None:
        """Put the cursor under the mouse."""
        line = (event.y + self.scroll_offset.y) // self._height
        if line < len(self._layout.lines):
            piece = self._layout.nearest(line, event.x - _MARGIN)
            if piece is not None:
                self.go_to(piece)

    def action_token(self, step: int) -> None:
        """The next token that shows something."""
        self.go_to(self.cursor + step)

    def action_line(self, step: int) -> None:
        """The token below or above; lines without text are passed over."""
        number, cell = self._layout.line_of(self.cursor), self._layout.cell_of(self.cursor)
        self._layout.reach(number + _AT_ONCE)
        for line in range(number + step, len(self._layout.lines) if step > 0 else -1, step):
            piece = self._layout.nearest(line, cell)
            if piece is not None and piece != self.cursor:
                self.go_to(piece)
                return

    def action_page(self, pages: float) -> None:
        """Move by pages."""
        if not self._layout.lines:
            return
        lines = int(pages * max(1, self.size.height - 1)) // self._height
        number = self._layout.line_of(self.cursor) + lines
        self._layout.reach(number + _AT_ONCE)
        number = min(max(0, number), len(self._layout.lines) - 1)
        step = -1 if number == len(self._layout.lines) - 1 else 1
        while 0 < number < len(self._layout.lines) - 1 and not self._layout.lines[number]:
            number += step
        piece = self._layout.nearest(number, self._layout.cell_of(self.cursor))
        if piece is not None:
            self.scroll_to(y=self.scroll_offset.y + lines * self._height, animate=False)
            self.go_to(piece)

    def action_to_end(self, last: bool) -> None:
        """The first or the last token."""
        self.go_to(len(self._pieces) - 1 if last else 0)

    def action_strong(self, step: int) -> None:
        """The next token of a strong colour, going round at the end."""
        strong = np.flatnonzero(np.abs(self._colours.levels) >= _STRONG)
        if not len(strong):
            return
        after = strong[strong > self.cursor] if step > 0 else strong[strong < self.cursor][::-1]
        found = after if len(after) else strong[::step]
        self.go_to(int(found[0]))

    @property
    def _height(self) -> int:
        return 2 if self.marks else 1

    def _line(self, number: int) -> Strip:
        line, below = divmod(number, self._height)
        style = self.rich_style
        if line >= len(self._layout.lines):
            return Strip([])
        stretches = self._layout.lines[line]
        if below:
            shades = [self._shade(s.piece, s.text) for s in stretches]
            return Strip([Segment(" " * _MARGIN + mark_text(shades), style)])
        segments = [Segment(" " * _MARGIN, style)]
        for stretch in stretches:
            shade = self._shade(stretch.piece, stretch.text)
            shown = style + shade.style
            if stretch.piece == self.cursor:
                shown += _CURSOR
            segments.append(Segment(shade.text, shown))
        return Strip(segments).simplify()

    def _shade(self, piece: int, text: str) -> Shade:
        return self._colours.shade(piece, text)

    def _lay_out(self) -> None:
        self._layout = Layout(self._pieces, self.room)
        self._layout.reach(_AT_ONCE)
        if self._laying is not None:
            self._laying.stop()
        self._laying = None
        if not self._layout.complete:
            self._laying = self.set_interval(_REST_SECONDS, self._lay_more)

    def _lay_more(self) -> None:
        self._layout.reach(len(self._layout.lines) + _AT_ONCE)
        self._measure()
        if self._layout.complete and self._laying is not None:
            self._laying.stop()
            self._laying = None

    def _measure(self) -> None:
        self.virtual_size = Size(self.scrollable_content_region.width, self.height)

    def _resize(self) -> None:
        self._strips.clear()
        self._measure()

    def _keep_cursor_visible(self) -> None:
        if not self._layout.lines:
            return
        line = self._layout.line_of(self.cursor) * self._height
        if line + self._height > self.virtual_size.height:
            self._measure()
        height, top = max(1, self.size.height), self.scroll_offset.y
        if line < top:
            self.scroll_to(y=line, animate=False, force=True)
        elif line + self._height > top + height:
            self.scroll_to(y=line + self._height - height, animate=False, force=True)
