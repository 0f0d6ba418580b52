"""A list of any number of documents, of which only those on screen are ever looked at.

Scores and order are in memory; beginnings of texts come in later through ``snippet_of`` and stand
as dots until then. Nothing here reads: :class:`RankedList.Wanted` asks the screen to.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.timer import Timer

from engine.scores.ranking import Ranking
from magic_tui.explore.ranked_line import PLACEHOLDER, Columns, Entry, Styles, entry_segments
from magic_tui.text.cells import fit

_SETTLE_SECONDS = 0.03
"""A viewport that stands this long is worth reading for."""


class RankedList(ScrollView, can_focus=True):
    """Documents in the order of a ranking, one a line, one of them current."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        *("ranked--helpful", "ranked--harmful", "ranked--dim", "ranked--cursor"),
    }
    DEFAULT_CSS = """
    RankedList {
        height: 1fr; scrollbar-size-vertical: 1; scrollbar-gutter: stable;
        overflow-x: hidden;
    }
    RankedList .ranked--helpful { color: $primary; }
    RankedList .ranked--harmful { color: $warning; }
    RankedList .ranked--dim { color: $text-muted; }
    RankedList .ranked--cursor { background: $surface-lighten-1; text-style: bold; }
    RankedList:focus .ranked--cursor { background: $block-cursor-background; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "move(1)", "down", show=False, tooltip="Next document."),
        Binding("k,up", "move(-1)", "up", show=False, tooltip="Document before."),
        Binding("pagedown,ctrl+f", "page(1)", "page", show=False, tooltip="A page on."),
        Binding("pageup", "page(-1)", "page", show=False, tooltip="A page back."),
        Binding("ctrl+d", "page(0.5)", "half", show=False, tooltip="Half a page on."),
        Binding("ctrl+u", "page(-0.5)", "half", show=False, tooltip="Half a page back."),
        Binding("g,home", "to_end(False)", "first", show=False, tooltip="First document."),
        Binding("G,end", "to_end(True)", "last", show=False, tooltip="Last document."),
        Binding("space", "mark", "mark", show=False, tooltip="Mark the document, and move on."),
        Binding("enter", "open", "open", tooltip="Open the document."),
        Binding("l,right", "open", show=False),
    ]

    @dataclass
    class Moved(Message):
        """Another document is current; None if there is none."""

        document: int | None

    @dataclass
    class Opened(Message):
        """The user wants to see a document."""

        document: int

    @dataclass
    class Wanted(Message):
        """The texts of these documents, the visible ones first, would be good to have."""

        documents: list[int]

    def __init__(self, snippet_of: Callable[[int], str | None]) -> None:
        """An empty list.

        Args:
            snippet_of: the beginning of a document's text, None while it is not known; never reads.
        """
        super().__init__()
        self._snippet_of = snippet_of
        self.ranking: Ranking | None = None
        self.other: Ranking | None = None
        self.cursor = 0
        self.marked: set[int] = set()
        self._settling: Timer | None = None

    @property
    def document(self) -> int | None:
        """The current document."""
        if self.ranking is None or not len(self.ranking):
            return None
        return int(self.ranking.order[self.cursor])

    def show(self, ranking: Ranking, other: Ranking | None, document: int | None) -> None:
        """Show a ranking, beside it what another query says, and a document as the current one."""
        self.ranking, self.other = ranking, other
        place = None if document is None else ranking.index(document)
        self.cursor = place or 0
        self.virtual_size = Size(self.room, len(ranking))
        self._keep_cursor_visible()
        self.refresh()
        self._settle()
        self.post_message(self.Moved(self.document))

    def clear(self) -> None:
        """Show nothing."""
        self.ranking = self.other = None
        self.virtual_size = Size(self.room, 0)
        self.refresh()

    def came(self, documents: Sequence[int]) -> None:
        """Draw again the lines of documents whose texts have come; only those on screen."""
        late = set(documents)
        top = self.scroll_offset.y
        for line, document in enumerate(self.on_screen()):
            if document in late:
                self.refresh_line(top + line)

    def go_to(self, index: int) -> None:
        """Make the document at an index current."""
        if self.ranking is None or not len(self.ranking):
            return
        before, self.cursor = self.cursor, min(max(0, index), len(self.ranking) - 1)
        if before == self.cursor:
            return
        if not self._keep_cursor_visible():
            self.refresh_lines(min(before, self.cursor), 1)
            self.refresh_lines(max(before, self.cursor), 1)
        self.post_message(self.Moved(self.document))

    def columns(self) -> Columns | None:
        """Widths of the columns now."""
        if self.ranking is None:
            return None
        return Columns.of(self.ranking, self.room, self.other is not None)

    @property
    def room(self) -> int:
        """Cells of a line: what the scroll bar leaves."""
        return self.scrollable_content_region.width

    def render_line(self, y: int) -> Strip:
        """One document."""
        width, index = self.room, y + self.scroll_offset.y
        styles = self._styles()
        columns = self.columns()
        if self.ranking is None or columns is None or index >= len(self.ranking):
            return Strip.blank(width, styles.plain)
        document = int(self.ranking.order[index])
        current = index == self.cursor
        snippet = self._snippet_of(document)
        entry = Entry(index + 1, document, snippet, document in self.marked, current)
        segments = list(entry_segments(entry, self.ranking, self.other, columns, styles))
        room = width - sum(segment.cell_length for segment in segments)
        text = fit(PLACEHOLDER if snippet is None else snippet, max(0, room))
        segments.append(Segment(text, styles.dim if snippet is None else styles.plain))
        if current:
            segments = list(Segment.apply_style(segments, post_style=styles.cursor))
            return Strip(segments).adjust_cell_length(width, styles.plain + styles.cursor)
        return Strip(segments).simplify().adjust_cell_length(width, styles.plain)

    def on_resize(self, event: events.Resize) -> None:
        """Keep what is current in view."""
        if self.ranking is not None:
            self.virtual_size = Size(self.room, len(self.ranking))
        self._keep_cursor_visible()
        self._settle()

    def on_click(self, event: events.Click) -> None:
        """Make the document under the mouse current; twice opens it."""
        self.go_to(event.y + self.scroll_offset.y)
        if event.chain == 2:
            self.action_open()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Ask for texts once the viewport stands still."""
        super().watch_scroll_y(old_value, new_value)
        self._settle()

    def action_move(self, lines: int) -> None:
        """Move the cursor."""
        self.go_to(self.cursor + lines)

    def action_page(self, pages: float) -> None:
        """Move by pages, the viewport as far as the cursor."""
        if self.ranking is None:
            return
        lines = int(pages * max(1, self.size.height - 1))
        target = min(max(0, self.cursor + lines), max(0, len(self.ranking) - 1))
        self.scroll_to(y=self.scroll_offset.y + lines, animate=False)
        self.go_to(target)

    def action_to_end(self, last: bool) -> None:
        """Move to the first or the last document."""
        if self.ranking is not None:
            self.go_to(len(self.ranking) - 1 if last else 0)

    def action_mark(self) -> None:
        """Mark the current document, or take its mark away."""
        if self.document is not None:
            self.marked ^= {self.document}
            self.refresh_line(self.cursor)
            self.action_move(1)

    def action_open(self) -> None:
        """Ask for the current document."""
        if self.document is not None:
            self.post_message(self.Opened(self.document))

    def on_screen(self, pages_around: int = 0) -> list[int]:
        """Documents on screen, and after them those some pages around."""
        if self.ranking is None:
            return []
        height, top = max(1, self.size.height), self.scroll_offset.y
        order = self.ranking.order
        shown = [int(d) for d in order[top : top + height]]
        around = pages_around * height
        after = order[top + height : top + height + around]
        before = order[max(0, top - around) : top]
        return [*shown, *(int(d) for d in after), *(int(d) for d in before[::-1])]

    def _keep_cursor_visible(self) -> bool:
        """Scroll if need be; whether that was needed."""
        height, top = max(1, self.size.height), self.scroll_offset.y
        if top <= self.cursor < top + height:
            return False
        target = self.cursor if self.cursor < top else self.cursor - height + 1
        self.scroll_to(y=target, animate=False, force=True)
        return True

    def _settle(self) -> None:
        if self._settling is not None:
            self._settling.stop()
        self._settling = self.set_timer(_SETTLE_SECONDS, self._want)

    def _want(self) -> None:
        missing = [d for d in self.on_screen(1) if self._snippet_of(d) is None]
        if missing:
            self.post_message(self.Wanted(missing))

    def _styles(self) -> Styles:
        style = self.rich_style
        helpful, harmful, dim, cursor = (
            self.get_component_rich_style(f"ranked--{name}", partial=True)
            for name in ("helpful", "harmful", "dim", "cursor")
        )
        return Styles(style, style + helpful, style + harmful, style + dim, cursor)
