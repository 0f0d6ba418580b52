"""A document laid out in lines, told apart by its pieces and not yet by their colours.

The layout depends on the text and the width alone, so another query or another scale colours the
same lines anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len

from magic_tui.client.document import Piece
from magic_tui.render.tokens import Shade, wrap_shades


@dataclass(frozen=True)
class Stretch:
    """Part of a line that belongs to one piece."""

    piece: int
    text: str
    start: int
    """Cell at which it begins."""

    @property
    def stop(self) -> int:
        """Cell behind it."""
        return self.start + cell_len(self.text)


@dataclass
class Layout:
    """Lines of stretches, and where each piece begins."""

    lines: list[list[Stretch]]
    _line_of: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, line in enumerate(self.lines):
            for stretch in line:
                self._line_of.setdefault(stretch.piece, number)

    def line_of(self, piece: int) -> int:
        """The line on which a piece begins; one without text stands where the next one does."""
        while piece not in self._line_of and piece > 0:
            piece -= 1
        return self._line_of.get(piece, 0)

    def lines_of(self, piece: int) -> range:
        """All lines on which a piece stands."""
        first = self.line_of(piece)
        last = first
        while last + 1 < len(self.lines) and any(s.piece == piece for s in self.lines[last + 1]):
            last += 1
        return range(first, last + 1)

    def cell_of(self, piece: int) -> int:
        """The cell at which a piece begins on its line."""
        line = self.lines[self.line_of(piece)]
        return next((stretch.start for stretch in line if stretch.piece == piece), 0)

    def nearest(self, number: int, cell: int) -> int | None:
        """The piece on a line that is nearest to a cell; None on an empty line."""
        line = self.lines[number]
        if not line:
            return None
        return min(line, key=lambda s: max(s.start - cell, cell - s.stop + 1, 0)).piece


def lay_out(pieces: Sequence[Piece], width: int) -> Layout:
    """Lines of at most ``width`` cells, broken between words and at line feeds."""
    # What wraps only tells stretches apart by their level: the number of a piece serves as well.
    wrapped = wrap_shades([Shade(piece.text, index) for index, piece in enumerate(pieces)], width)
    lines: list[list[Stretch]] = []
    for shades in wrapped:
        line: list[Stretch] = []
        cell = 0
        for shade in shades:
            line.append(Stretch(shade.level, shade.text, cell))
            cell += cell_len(shade.text)
        lines.append(line)
    return Layout(lines)
