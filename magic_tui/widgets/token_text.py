"""A text of shaded tokens with a cursor.

The layout depends on text and width only, so another shading recolours the same lines. Lines are
laid out on demand: a document may have any length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.timer import Timer

from magic_tui.text.tokens import (
    STRONG,
    Shade,
    Shading,
    mark_text,
    shade_style,
    unshaded,
    wrap_shades,
)

_MARGIN = 1
_CURSOR = Style(reverse=True, bold=True)
_BATCH = 150
"""Lines laid out at once: more than a screen shows."""
_PAUSE_SECONDS = 0.02
"""Pause between batches of the rest."""
_MOST_STRIPS = 1000


@dataclass(frozen=True, slots=True)
class Stretch:
    """Part of a line that belongs to one piece."""

    piece: int
    text: str
    start: int
    """First cell."""

    @property
    def stop(self) -> int:
        """The cell after the last."""
        return self.start + cell_len(self.text)


class Layout:
    """Lines of stretches, and the line of each piece."""

    def __init__(self, texts: Sequence[str], width: int) -> None:
        """Prepare a layout; no line is laid out yet.

        Args:
            texts: the text of each piece.
            width: cells of a line.
        """
        self.lines: list[list[Stretch]] = []
        self.complete = not texts
        self._line_of: dict[int, int] = {}
        self._last, self._laid = len(texts) - 1, -1
        # Wrapping separates stretches by level; here the piece's index serves as its level.
        numbered = (Shade(text, index) for index, text in enumerate(texts))
        self._coming = wrap_shades(numbered, width)

    def reach(self, line: int) -> None:
        """Lay out lines until ``line`` exists or the text ends."""
        while len(self.lines) <= line and not self.complete:
            self._lay_line()

    def line_of(self, piece: int) -> int:
        """The line on which a piece begins; a piece without text belongs to the one before it."""
        piece = min(piece, self._last)
        while not self.complete and self._laid < piece:
            self._lay_line()
        while piece not in self._line_of and piece > 0:
            piece -= 1
        return self._line_of.get(piece, 0)

    def lines_of(self, piece: int) -> range:
        """All lines of a piece."""
        first = last = self.line_of(piece)
        self.reach(last + 1)
        while last + 1 < len(self.lines) and any(s.piece == piece for s in self.lines[last + 1]):
            last += 1
            self.reach(last + 1)
        return range(first, last + 1)

    def cell_of(self, piece: int) -> int:
        """The cell at which a piece begins on its line."""
        line = self.lines[self.line_of(piece)]
        return next((stretch.start for stretch in line if stretch.piece == piece), 0)

    def nearest(self, number: int, cell: int) -> int | None:
        """The piece on a line nearest to a cell; None on an empty line."""
        line = self.lines[number]
        if not line:
            return None
        return min(line, key=lambda s: max(s.start - cell, cell - s.stop + 1, 0)).piece

    def _lay_line(self) -> None:
        shades = next(self._coming, None)
        if shades is None:
            self.complete = True
            return
        line: list[Stretch] = []
        cell = 0
        for shade in shades:
            line.append(Stretch(shade.level, shade.text, cell))
            self._line_of.setdefault(shade.level, len(self.lines))
            cell += cell_len(shade.text)
            self._laid = shade.level
        self.lines.append(line)


class TokenText(ScrollView, can_focus=True):
    """Strips are built and cached when their line becomes visible.

    The visible part of a long text is laid out at once, the rest in batches.
    """

    DEFAULT_CSS = """
    TokenText {
        height: 1fr; scrollbar-size-vertical: 1; scrollbar-gutter: stable;
        overflow-x: hidden;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "strong(1)", "strong", tooltip="Next strong token."),
        Binding("N", "strong(-1)", show=False, tooltip="Previous strong token."),
        Binding("l,right", "token(1)", show=False, tooltip="Next token."),
        Binding("h,left", "token(-1)", show=False, tooltip="Previous token."),
        Binding("j,down", "line(1)", show=False, tooltip="Token below."),
        Binding("k,up", "line(-1)", show=False, tooltip="Token above."),
        Binding("pagedown,ctrl+f", "page(1)", show=False, tooltip="One page down."),
        Binding("pageup", "page(-1)", show=False, tooltip="One page up."),
        Binding("ctrl+d", "page(0.5)", show=False, tooltip="Half a page down."),
        Binding("ctrl+u", "page(-0.5)", show=False, tooltip="Half a page up."),
        Binding("g,home", "ends(0)", show=False, tooltip="First token."),
        Binding("G,end", "ends(1)", show=False, tooltip="Last token."),
    ]

    @dataclass
    class Moved(Message):
        """The cursor is on another piece."""

        piece: int

    def __init__(self) -> None:
        """An empty text."""
        super().__init__()
        self.cursor = 0
        self.marks = False
        """Whether a line of marks follows each line of text."""
        self._texts: Sequence[str] = []
        self._shading = unshaded(0)
        self._layout = Layout([], 1)
        self._strips: dict[int, Strip] = {}
        self._laying: Timer | None = None

    @property
    def line_width(self) -> int:
        """Cells of a line of text."""
        return max(4, self.scrollable_content_region.width - 2 * _MARGIN)

    @property
    def text_height(self) -> int:
        """Screen lines of the part that is laid out."""
        return self._rows * len(self._layout.lines)

    def update(self, texts: Sequence[str], shading: Shading, marks: bool) -> None:
        """Replace the text, or the shading of the same text; the cursor then stays.

        Args:
            texts: the text of each piece.
            shading: the level of each piece.
            marks: whether to show marks below the text.
        """
        other = texts is not self._texts and texts != self._texts
        self._texts, self._shading, self.marks = texts, shading, marks
        if other:
            self.cursor = 0
            self._lay_out()
            self.scroll_to(y=0, animate=False, force=True)
        self._strips.clear()
        self._measure()
        self.refresh()
        self.post_message(self.Moved(self.cursor))

    def go_to(self, piece: int) -> None:
        """Move the cursor to a piece and scroll it into view."""
        if not self._texts:
            return
        before, self.cursor = self.cursor, min(max(0, piece), len(self._texts) - 1)
        for changed in (before, self.cursor):
            for line in self._layout.lines_of(changed):
                self._strips.pop(line * self._rows, None)
                self.refresh_lines(line * self._rows, 1)
        self._scroll_to_cursor()
        self.post_message(self.Moved(self.cursor))

    def render_line(self, y: int) -> Strip:
        """A line of text or of marks."""
        number = y + self.scroll_offset.y
        width = self.scrollable_content_region.width
        if len(self._strips) > _MOST_STRIPS:
            self._strips.clear()
        if number not in self._strips:
            self._strips[number] = self._strip(number).adjust_cell_length(width, self.rich_style)
        return self._strips[number]

    def notify_style_update(self) -> None:
        """Discard strips in the old colours."""
        super().notify_style_update()
        self._strips.clear()

    def on_focus(self) -> None:
        """Draw the cursor."""
        self._strips.clear()
        self.refresh()

    def on_blur(self) -> None:
        """Hide the cursor."""
        self._strips.clear()
        self.refresh()

    def on_resize(self, event: events.Resize) -> None:
        """Lay out again."""
        self._lay_out()
        self._strips.clear()
        self._measure()
        self._scroll_to_cursor()

    def on_click(self, event: events.Click) -> None:
        """Move the cursor to the mouse."""
        line = (event.y + self.scroll_offset.y) // self._rows
        if line < len(self._layout.lines):
            piece = self._layout.nearest(line, event.x - _MARGIN)
            if piece is not None:
                self.go_to(piece)

    def action_token(self, step: int) -> None:
        """Move by tokens."""
        self.go_to(self.cursor + step)

    def action_line(self, step: int) -> None:
        """Move to the token below or above; scroll if there is none."""
        number, cell = self._layout.line_of(self.cursor), self._cell()
        self._layout.reach(number + _BATCH)
        for line in range(number + step, len(self._layout.lines) if step > 0 else -1, step):
            piece = self._layout.nearest(line, cell)
            if piece is not None and piece != self.cursor:
                self.go_to(piece)
                return
        self.scroll_to(y=self.scroll_offset.y + step, animate=False)

    def action_page(self, pages: float) -> None:
        """Move by pages."""
        if not self._layout.lines:
            return
        lines = int(pages * max(1, self.size.height - 1)) // self._rows
        number = self._layout.line_of(self.cursor) + lines
        self._layout.reach(number + _BATCH)
        last = len(self._layout.lines) - 1
        number = min(max(0, number), last)
        step = -1 if number == last else 1
        while 0 < number < last and not self._layout.lines[number]:
            number += step
        self.scroll_to(y=self.scroll_offset.y + lines * self._rows, animate=False)
        piece = self._layout.nearest(number, self._cell())
        if piece is not None and piece != self.cursor:
            self.go_to(piece)

    def action_ends(self, last: int) -> None:
        """Move to the first or the last token."""
        self.go_to(len(self._texts) - 1 if last else 0)

    def action_strong(self, step: int) -> None:
        """Move to the next strong token, wrapping around."""
        strong = np.flatnonzero(np.abs(self._shading.levels) >= STRONG)
        if not len(strong):
            return
        after = strong[strong > self.cursor] if step > 0 else strong[strong < self.cursor][::-1]
        candidates = after if len(after) else strong[::step]
        self.go_to(int(candidates[0]))

    @property
    def _rows(self) -> int:
        """Screen lines of a line of text."""
        return 2 if self.marks else 1

    def _cell(self) -> int:
        return self._layout.cell_of(self.cursor) if self._layout.lines else 0

    def _strip(self, number: int) -> Strip:
        line, below = divmod(number, self._rows)
        style, palette = self.rich_style, self._shading.palette
        if line >= len(self._layout.lines):
            return Strip([])
        stretches = self._layout.lines[line]
        shades = [self._shading.shade(s.piece, s.text) for s in stretches]
        if below:
            return Strip([Segment(" " * _MARGIN + mark_text(shades, palette), style)])
        segments = [Segment(" " * _MARGIN, style)]
        # A text that is one piece has no token to point at.
        cursor = self.cursor if self.has_focus and len(self._texts) > 1 else None
        for stretch, shade in zip(stretches, shades, strict=True):
            combined = style + shade_style(shade, palette)
            if stretch.piece == cursor:
                combined += _CURSOR
            segments.append(Segment(shade.text, combined))
        return Strip(segments).simplify()

    def _lay_out(self) -> None:
        self._layout = Layout(self._texts, self.line_width)
        self._layout.reach(_BATCH)
        if self._laying is not None:
            self._laying.stop()
        self._laying = None
        if not self._layout.complete:
            self._laying = self.set_interval(_PAUSE_SECONDS, self._lay_more)

    def _lay_more(self) -> None:
        self._layout.reach(len(self._layout.lines) + _BATCH)
        self._measure()
        if self._layout.complete and self._laying is not None:
            self._laying.stop()
            self._laying = None

    def _measure(self) -> None:
        self.virtual_size = Size(self.scrollable_content_region.width, self.text_height)

    def _scroll_to_cursor(self) -> None:
        if not self._layout.lines:
            return
        line = self._layout.line_of(self.cursor) * self._rows
        if line + self._rows > self.virtual_size.height:
            self._measure()
        height, top = max(1, self.size.height), self.scroll_offset.y
        if line < top:
            self.scroll_to(y=line, animate=False, force=True)
        elif line + self._rows > top + height:
            self.scroll_to(y=line + self._rows - height, animate=False, force=True)
