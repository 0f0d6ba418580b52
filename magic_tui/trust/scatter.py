"""Predicted against actual measurements of retrained subsets, with a cursor over the points."""

from typing import ClassVar

import numpy as np
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.strip import Strip
from textual.widget import Widget

from engine.evaluation.predictions import Points
from magic_tui.text.cells import fit
from magic_tui.text.step_charts import scale_text
from magic_tui.trust.trust_lines import LINE, OUTLIER, POINT, Frame, point_text, scatter_rows
from magic_tui.widgets.lines import text_strip

_GUTTER = 10


class Scatter(Widget, can_focus=True):
    """A point a subset; the farthest from y = x are reached first."""

    DEFAULT_CSS = """
    Scatter { height: 1fr; min-height: 6; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n,j,down", "point(1)", "next point", tooltip="The next point off the line."),
        Binding("N,k,up", "point(-1)", show=False, tooltip="The point before."),
        Binding("g,home", "point(0)", show=False, tooltip="The point farthest off."),
    ]

    def __init__(self) -> None:
        """No points yet."""
        super().__init__()
        self.points: Points | None = None
        self._place: int | None = None
        self._drawn: tuple[object, list[Text]] | None = None

    def show(self, points: Points | None) -> None:
        """Show the points of another query, or more of them."""
        if (points and points.query) != (self.points and self.points.query):
            self._place = None
        self.points, self._drawn = points, None
        self.refresh()

    @property
    def cursor(self) -> int | None:
        """The point under the cursor."""
        if self.points is None or self._place is None:
            return None
        off = np.abs(self.points.predicted - self.points.actual)
        order = np.argsort(-off, kind="stable")
        return int(order[min(self._place, len(order) - 1)])

    def action_point(self, points: int) -> None:
        """Move the cursor to a point more, or less, far from the line."""
        if self.points is not None:
            place = -1 if self._place is None else self._place
            last = len(self.points.subsets) - 1
            self._place = 0 if points == 0 else max(0, min(place + points, last))
            self._drawn = None
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """The point under the cursor, the plot, its lower axis."""
        key = (self.size, self.cursor)
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = key, self._rows() if self.points is not None else []
        rows, width = self._drawn[1], self.size.width
        if y >= len(rows):
            return Strip.blank(width, self.rich_style)
        return text_strip(rows[y], self).adjust_cell_length(width, self.rich_style)

    def _rows(self) -> list[Text]:
        assert self.points is not None
        height = max(3, self.size.height - 3)
        width = max(8, min(self.size.width - _GUTTER, 3 * height))
        frame = Frame.of(self.points)
        cursor = self.cursor
        legend = f"{POINT} a subset  {OUTLIER} far off  {LINE} predicted = actual"
        about = legend if cursor is None else point_text(self.points, cursor)
        rows = [Text(fit(about, self.size.width), "" if cursor is not None else "dim")]
        plot = scatter_rows(self.points, width, height, cursor)
        for index, line in enumerate(plot):
            label = {0: scale_text(frame.high), height - 1: scale_text(frame.low)}.get(index, "")
            name = "actual" if index == height // 2 else label
            rows.append(Text(f"{name:>9}│", "dim", end="").append_text(_undimmed(line)))
        rows.append(Text(" " * 9 + "└" + "─" * width, "dim"))
        low, high = scale_text(frame.low).strip(), scale_text(frame.high).strip()
        room = max(0, width - len(low) - len(high))
        rows.append(Text(" " * _GUTTER + low + "predicted".center(room) + high, "dim"))
        return rows


def _undimmed(line: Text) -> Text:
    made = Text("", "not dim", end="")
    return made.append_text(line)
