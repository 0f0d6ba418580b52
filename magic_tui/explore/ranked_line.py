"""One line of a ranked list of documents: place, bar, score, share, the beginning of its text."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style

from engine.scores.ranking import Ranking
from magic_tui.text.bars import CENTRE, signed_bar
from magic_tui.text.cells import fit
from magic_tui.text.numbers import count_text, score_text, share_text

PLACEHOLDER = "·  ·  ·"
MARKED, UNDER_CURSOR = "◆", "▸"
_SCORE_WIDTH, _SHARE_WIDTH = 10, 6


@dataclass(frozen=True)
class Styles:
    """How the parts of a line look."""

    plain: Style
    helpful: Style
    harmful: Style
    dim: Style
    cursor: Style


@dataclass(frozen=True)
class Columns:
    """Widths that suit a list of documents and the room there is."""

    place: int
    rank: int
    document: int
    half_bar: int
    compared: bool

    @classmethod
    def of(cls, ranking: Ranking, width: int, compared: bool) -> "Columns":
        """Columns for all documents of a ranking."""
        place = len(count_text(max(1, len(ranking))))
        document = len(str(max(0, len(ranking.values) - 1)))
        half = (width - 50) // (9 if compared else 6)
        rank = len(count_text(max(1, len(ranking.values))))
        return cls(place, rank, document, max(3, min(12, half)), compared)

    def heads(self, width: int) -> list[tuple[str, str]]:
        """(text, kind) of the line above the list."""
        bar = 2 * self.half_bar + 1
        names = "helps│harms".center(bar) if bar >= 11 else "−│+".center(bar)
        left = f"  {'#':>{self.place}} {'doc':>{max(3, self.document)}} "
        parts = [(left, "dim"), (names, "dim"), (f" {'score':^{_SCORE_WIDTH}}", "dim")]
        if self.compared:
            second = f"  {names} {'score':^{_SCORE_WIDTH}} {'#':>{self.rank}}"
            parts.append((second, "dim"))
        else:
            parts.append((f" {'share':>{_SHARE_WIDTH}}", "dim"))
        used = sum(cell_len(text) for text, _ in parts)
        return [*parts, (fit("  text", max(0, width - used)), "dim")]


@dataclass(frozen=True)
class Entry:
    """What stands in one line."""

    place: int
    document: int
    snippet: str | None
    marked: bool
    current: bool


def entry_segments(
    entry: Entry, ranking: Ranking, other: Ranking | None, columns: Columns, styles: Styles
) -> Iterator[Segment]:
    """The parts of a line but its snippet, which takes what room is left.

    Only bars and scores are coloured: every change of colour costs more than the cells it colours.
    """
    sign = UNDER_CURSOR if entry.current else " "
    mark = MARKED if entry.marked else " "
    place = f"{count_text(entry.place):>{columns.place}}"
    document = f"{entry.document:>{max(3, columns.document)}}"
    yield Segment(f"{sign}{mark}{place} {document} ", styles.plain)
    yield from _bar(ranking, entry.document, columns, styles)
    if other is None:
        share = f" {share_text(ranking.share(entry.document)):>{_SHARE_WIDTH}}"
        yield Segment(share + "  ", styles.plain)
        return
    yield Segment("  ", styles.plain)
    yield from _bar(other, entry.document, columns, styles)
    strength = count_text(other.strength(entry.document))
    yield Segment(f" {strength:>{columns.rank}}  ", styles.plain)


def _bar(ranking: Ranking, document: int, columns: Columns, styles: Styles) -> Iterator[Segment]:
    value = float(ranking.values[document])
    left, right = signed_bar(value, ranking.largest, columns.half_bar)
    style = styles.helpful if value < 0 else styles.harmful if value > 0 else styles.plain
    yield Segment(left, styles.plain if value >= 0 else style)
    yield Segment(CENTRE, styles.plain)
    yield Segment(right, styles.plain if value <= 0 else style)
    yield Segment(f" {score_text(value)}", style)
