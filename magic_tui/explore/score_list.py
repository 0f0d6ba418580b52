"""The ranked documents of a query: place, bar, score, share, beginning of the text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.timer import Timer

from engine.scores.ranking import Ranking
from magic_tui.text.bars import CENTRE, HARMFUL, HELPFUL, signed_bar
from magic_tui.text.cells import fit
from magic_tui.text.numbers import count_text, score_text, share_text
from magic_tui.widgets.virtual_list import VirtualList

PLACEHOLDER = "·  ·  ·"
_SETTLE_SECONDS = 0.03
"""Snippets are requested once the viewport has stood still for this long."""
_SCORE_WIDTH, _SHARE_WIDTH, _SIGNS_WIDTH = 10, 6, 2


@dataclass(frozen=True)
class Columns:
    """Column widths for a ranking."""

    place: int
    rank: int
    document: int
    half_bar: int
    compared: bool

    @classmethod
    def of(cls, ranking: Ranking, width: int, compared: bool) -> "Columns":
        """The columns that fit into ``width`` cells."""
        place = len(count_text(max(1, len(ranking))))
        document = len(str(max(0, len(ranking.values) - 1)))
        half = (width - 50) // (9 if compared else 6)
        rank = len(count_text(max(1, len(ranking.values))))
        return cls(place, rank, document, max(3, min(12, half)), compared)

    def header(self, width: int) -> Text:
        """The line above the list."""
        bar = 2 * self.half_bar + 1
        names = "helps│harms".center(bar) if bar >= 11 else "−│+".center(bar)
        line = f"  {'#':>{self.place}} {'doc':>{max(3, self.document)}} {names}"
        line += f" {'score':^{_SCORE_WIDTH}}"
        if self.compared:
            line += f"  {names} {'score':^{_SCORE_WIDTH}} {'#':>{self.rank}}"
        else:
            line += f" {'share':>{_SHARE_WIDTH}}"
        return Text(line + fit("  text", max(0, width - cell_len(line))), "dim", no_wrap=True)


class ScoreList(VirtualList):
    """Documents of a ranking of any length.

    Scores and order are in memory. Snippets come from ``snippet_of``, which never reads;
    :class:`ScoreList.Wanted` requests the missing ones from the screen.
    """

    DEFAULT_CSS = """
    ScoreList { scrollbar-gutter: stable; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "mark", show=False, tooltip="Mark the document and move on."),
    ]

    @dataclass
    class Wanted(Message):
        """Snippets of these documents are missing; visible ones come first."""

        documents: list[int]

    def __init__(self, snippet_of: Callable[[int], str | None]) -> None:
        """An empty list.

        Args:
            snippet_of: the beginning of a document's text; None while it is not loaded.
        """
        super().__init__()
        self.ranking: Ranking | None = None
        self.other: Ranking | None = None
        self.snippet_of = snippet_of
        self._settling: Timer | None = None

    @property
    def document(self) -> int | None:
        """The document under the cursor."""
        return self._document_at(self.cursor) if self.count() else None

    @property
    def columns(self) -> Columns | None:
        """Current column widths."""
        if self.ranking is None:
            return None
        return Columns.of(self.ranking, self.line_width, self.other is not None)

    def update(self, ranking: Ranking, other: Ranking | None, document: int | None) -> None:
        """Show a ranking.

        Args:
            ranking: the documents.
            other: the ranking of another query, for comparison.
            document: the document to put the cursor on.
        """
        self.ranking, self.other = ranking, other
        self.cursor = (None if document is None else ranking.index(document)) or 0
        self.reload()
        self.scroll_to_cursor()
        self._request_later()
        self.post_message(self.Moved(self.cursor))

    def clear(self) -> None:
        """Show nothing."""
        self.ranking = self.other = None
        self.reload()

    def refresh_documents(self, documents: Sequence[int]) -> None:
        """Redraw visible documents whose snippets were loaded."""
        loaded, top = set(documents), self.scroll_offset.y
        for line, document in enumerate(self.visible_documents()):
            if document in loaded:
                self.refresh_line(top + line)

    def visible_documents(self, pages_around: int = 0) -> list[int]:
        """Visible documents, then those on some pages after and before."""
        if self.ranking is None:
            return []
        height, top = max(1, self.size.height), self.scroll_offset.y
        order, around = self.ranking.order, pages_around * height
        visible = order[top : top + height].tolist()
        after = order[top + height : top + height + around].tolist()
        before = order[max(0, top - around) : top][::-1].tolist()
        return [*visible, *after, *before]

    def count(self) -> int:
        """Number of documents."""
        return 0 if self.ranking is None else len(self.ranking)

    def is_marked(self, index: int) -> bool:
        """Marks belong to documents, not to lines."""
        return self._document_at(index) in self.marked

    def line(self, index: int, width: int) -> Text:
        """One document. Few colour changes: each costs more bytes than the cells it colours."""
        ranking, columns = self.ranking, self.columns
        assert ranking is not None and columns is not None
        document = self._document_at(index)
        place = f"{count_text(index + 1):>{columns.place}}"
        line = Text(f"{place} {document:>{max(3, columns.document)}} ", no_wrap=True, end="")
        _append_bar(line, ranking, document, columns.half_bar)
        if self.other is None:
            line.append(f" {share_text(ranking.share(document)):>{_SHARE_WIDTH}}  ")
        else:
            _append_bar(line.append("  "), self.other, document, columns.half_bar)
            strength = count_text(self.other.strength(document))
            line.append(f" {strength:>{columns.rank}}  ")
        snippet, room = self.snippet_of(document), max(0, width - line.cell_len)
        if snippet is None:
            return line.append(fit(PLACEHOLDER, room), "dim")
        return line.append(fit(snippet, room))

    def on_resize(self, event: events.Resize) -> None:
        """Load the snippets of newly visible documents."""
        self._request_later()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Load the snippets of newly visible documents."""
        super().watch_scroll_y(old_value, new_value)
        self._request_later()

    def action_mark(self) -> None:
        """Mark or unmark the document and move on."""
        if self.document is not None:
            self.marked ^= {self.document}
            self.refresh_line(self.cursor)
            self.action_move(1)

    def _document_at(self, index: int) -> int:
        assert self.ranking is not None
        return int(self.ranking.order[index])

    def _request_later(self) -> None:
        if self._settling is not None:
            self._settling.stop()
        self._settling = self.set_timer(_SETTLE_SECONDS, self._request)

    def _request(self) -> None:
        missing = [d for d in self.visible_documents(1) if self.snippet_of(d) is None]
        if missing:
            self.post_message(self.Wanted(missing))


def _append_bar(line: Text, ranking: Ranking, document: int, half: int) -> None:
    value = float(ranking.values[document])
    left, right = signed_bar(value, ranking.largest, half)
    style = HELPFUL if value < 0 else HARMFUL if value > 0 else ""
    line.append(left, style if value < 0 else "").append(CENTRE)
    line.append(right, style if value > 0 else "").append(f" {score_text(value)}", style)
