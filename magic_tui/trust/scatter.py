"""A scatter plot of predicted against actual φ of retrained subsets, with a cursor."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.strip import Strip
from textual.widget import Widget

from engine.evaluation.validation import Points
from engine.runs.safe_text import one_line
from magic_tui.text.cells import fit
from magic_tui.text.chart import scale_text
from magic_tui.widgets.lines import text_strip

POINT, SEVERAL, OUTLIER, LINE, CURSOR = "•", "●", "◆", "·", "◎"
_GUTTER = 10
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """The range of both axes. They are equal, so that y = x is the diagonal."""

    low: float
    high: float

    @classmethod
    def of(cls, points: Points) -> "Frame":
        """The range of all points with a margin of 4 %."""
        values = np.concatenate([points.predicted, points.actual])
        low, high = float(values.min()), float(values.max())
        margin = 0.04 * (high - low) or 0.5
        return cls(low - margin, high + margin)

    def cells(self, values: Floats, count: int) -> NDArray[np.int64]:
        """The cell of each value along an axis of ``count`` cells."""
        share = (values - self.low) / (self.high - self.low)
        return np.clip((share * count).astype(np.int64), 0, count - 1)


def scatter_rows(points: Points, width: int, height: int, cursor: int | None) -> list[Text]:
    """The plot from top to bottom: predicted φ to the right, actual φ upwards, and y = x."""
    frame, is_outlier = Frame.of(points), points.outliers()
    columns, rows = frame.cells(points.predicted, width), frame.cells(points.actual, height)
    grid = [[(" ", "") for _ in range(width)] for _ in range(height)]
    for column in range(width):
        grid[min(height - 1, column * height // width)][column] = (LINE, "dim")
    for index, (column, row) in enumerate(zip(columns.tolist(), rows.tolist(), strict=True)):
        occupied = grid[row][column][0] in (POINT, SEVERAL)
        glyph, style = (SEVERAL if occupied else POINT), "color(75)"
        if is_outlier[index]:
            glyph, style = OUTLIER, "color(208)"
        grid[row][column] = (glyph, style)
    if cursor is not None:
        grid[int(rows[cursor])][int(columns[cursor])] = (CURSOR, "bold reverse")
    lines = []
    for row_cells in reversed(grid):
        text = Text(no_wrap=True, end="")
        for glyph, style in row_cells:
            text.append(glyph, style)
        lines.append(text)
    return lines


def point_text(points: Points, index: int) -> str:
    """One retrained subset in a line."""
    predicted, actual = float(points.predicted[index]), float(points.actual[index])
    outlier = ", an outlier" if points.outliers()[index] else ""
    return (
        f"subset {one_line(points.subsets[index])}: predicted {predicted:.5g}, actual {actual:.5g} "
        f"({actual - predicted:+.2g}{outlier})"
    )


class Scatter(Widget, can_focus=True):
    """One point for each subset; the cursor starts at the point farthest from y = x."""

    DEFAULT_CSS = """
    Scatter { height: 1fr; min-height: 6; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n,j,down", "point(1)", "next point", tooltip="The next point nearer to the line."),
        Binding("N,k,up", "point(-1)", show=False, tooltip="The next point farther off."),
        Binding("g,home", "point(0)", show=False, tooltip="The point farthest off."),
    ]

    def __init__(self) -> None:
        """Start without points."""
        super().__init__()
        self.points: Points | None = None
        self._rank: int | None = None
        self._drawn: tuple[object, list[Text]] | None = None

    def set_points(self, points: Points | None) -> None:
        """Draw other points; the cursor is kept if they are of the same query."""
        if (points and points.query) != (self.points and self.points.query):
            self._rank = None
        self.points, self._drawn = points, None
        self.refresh()

    @property
    def cursor(self) -> int | None:
        """Index of the point under the cursor."""
        if self.points is None or self._rank is None:
            return None
        distance = np.abs(self.points.predicted - self.points.actual)
        order = np.argsort(-distance, kind="stable")
        return int(order[min(self._rank, len(order) - 1)])

    def action_point(self, change: int) -> None:
        """Move the cursor to a point nearer to the line, or farther off; 0 is the farthest."""
        if self.points is not None:
            rank = -1 if self._rank is None else self._rank
            last = len(self.points.subsets) - 1
            self._rank = 0 if change == 0 else max(0, min(rank + change, last))
            self._drawn = None
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line of the plot."""
        key = (self.size, self.cursor)
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = key, self._rows() if self.points is not None else []
        rows, width = self._drawn[1], self.size.width
        if y >= len(rows):
            return Strip.blank(width, self.rich_style)
        return text_strip(rows[y], self).adjust_cell_length(width, self.rich_style)

    def _rows(self) -> list[Text]:
        """The point under the cursor or a legend, the plot, and its lower axis."""
        assert self.points is not None
        height = max(3, self.size.height - 3)
        width = max(8, min(self.size.width - _GUTTER, 3 * height))
        frame, cursor = Frame.of(self.points), self.cursor
        legend = f"{POINT} a subset  {OUTLIER} an outlier  {LINE} predicted = actual"
        about = legend if cursor is None else point_text(self.points, cursor)
        rows = [Text(fit(about, self.size.width), "" if cursor is not None else "dim")]
        for index, line in enumerate(scatter_rows(self.points, width, height, cursor)):
            label = {0: scale_text(frame.high), height - 1: scale_text(frame.low)}.get(index, "")
            name = "actual" if index == height // 2 else label
            plot = Text("", "not dim", end="").append_text(line)
            rows.append(Text(f"{name:>9}│", "dim", end="").append_text(plot))
        rows.append(Text(" " * 9 + "└" + "─" * width, "dim"))
        low, high = scale_text(frame.low).strip(), scale_text(frame.high).strip()
        room = max(0, width - len(low) - len(high))
        rows.append(Text(" " * _GUTTER + low + "predicted".center(room) + high, "dim"))
        return rows
