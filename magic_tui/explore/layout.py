"""A document laid out in lines, told apart by its pieces and not yet by their colours.

The layout depends on the text and the width alone, so another query or another scale colours the
same lines anew. Lines are made as far as they are needed: a document may be of any length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from engine.scores.document import Piece
from magic_tui.text.tokens import Shade, wrapped


@dataclass(frozen=True, slots=True)
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


class Layout:
    """Lines of stretches, and where each piece begins."""

    def __init__(self, pieces: Sequence[Piece], width: int) -> None:
        """Lay out nothing yet.

        Args:
            pieces: the text.
            width: cells of a line.
        """
        self.lines: list[list[Stretch]] = []
        self.complete = not pieces
        self._line_of: dict[int, int] = {}
        self._last, self._laid = len(pieces) - 1, -1
        # What wraps only tells stretches apart by their level: a piece's number serves as well.
        numbered = (Shade(piece.text, index) for index, piece in enumerate(pieces))
        self._coming = wrapped(numbered, width)

    def reach(self, line: int) -> None:
        """Lay out at least so far that there is a line of this number, unless the text ends."""
        while len(self.lines) <= line and not self.complete:
            self._lay_line()

    def line_of(self, piece: int) -> int:
        """The line on which a piece begins; one without text stands where the one before does."""
        piece = min(piece, self._last)
        while not self.complete and self._laid < piece:
            self._lay_line()
        while piece not in self._line_of and piece > 0:
            piece -= 1
        return self._line_of.get(piece, 0)

    def lines_of(self, piece: int) -> range:
        """All lines on which a piece stands."""
        first = self.line_of(piece)
        last = first
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
        """The piece on a line that is nearest to a cell; None on an empty line."""
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
