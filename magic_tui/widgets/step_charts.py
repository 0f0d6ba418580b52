"""Charts over training steps with one cursor.

A chart shows signed bars around a zero line or filled bars from the bottom. A cell holds two levels
of a signed bar and eight of a filled one; a value other than zero shows at least one level.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from magic_tui.text.bars import HARMFUL, HELPFUL
from magic_tui.text.chart import scale_text
from magic_tui.widgets.lines import text_strip

Floats = NDArray[np.float64]
Grouping = Literal["sum", "mean", "last"]

GUTTER = 11
"""Cells left of the charts for names and scales."""
ZERO_LINE = "─"
_FEWEST_STEPS = 4
"""The closest zoom."""
_CURSOR_SHADE = "▒"
"""A bar under the cursor on terminals without colour."""
_UP, _DOWN, _EIGHTHS = " ▄█", " ▀█", " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Chart:
    """One chart; NaN marks unknown values."""

    name: str
    values: Floats
    """(step,)"""
    grouping: Grouping
    """The value of a bar that covers several steps."""
    style: str | None = None
    """Style of filled bars; None for signed bars."""
    from_zero: bool = False
    """Whether filled bars start at zero rather than at the smallest value."""


@dataclass(frozen=True)
class Window:
    """The visible steps and their columns."""

    first: int
    count: int
    width: int
    """Available columns."""

    @property
    def steps_per_column(self) -> int:
        """Steps of one column."""
        return max(1, -(-self.count // max(1, self.width)))

    @property
    def columns_per_step(self) -> int:
        """Columns of one step, if there are more columns than steps."""
        return max(1, self.width // max(1, self.count)) if self.steps_per_column == 1 else 1

    @property
    def groups(self) -> int:
        """Number of bars."""
        return -(-self.count // self.steps_per_column)

    def group_of(self, step: int) -> int:
        """The bar of a step."""
        return (step - self.first) // self.steps_per_column

    def steps_of(self, group: int) -> tuple[int, int]:
        """First step of a bar, and the step after its last."""
        start = self.first + group * self.steps_per_column
        return start, min(start + self.steps_per_column, self.first + self.count)

    def columns_of(self, group: int) -> tuple[int, int]:
        """First column of a bar, and the column after its last."""
        return group * self.columns_per_step, (group + 1) * self.columns_per_step

    def grouped(self, values: Floats, grouping: Grouping) -> Floats:
        """(bar,) Sum, mean or last of each bar's known values; NaN if there are none."""
        part = values[self.first : self.first + self.count].astype(np.float64)
        padded = np.full(self.groups * self.steps_per_column, np.nan)
        padded[: len(part)] = part
        table = padded.reshape(self.groups, self.steps_per_column)
        known = ~np.isnan(table)
        counts = known.sum(1)
        if grouping == "last":
            last = np.where(known, np.arange(table.shape[1]), -1).max(1)
            return np.asarray(np.where(counts > 0, table[np.arange(len(table)), last], np.nan))
        sums = np.where(known, table, 0.0).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            reduced = sums if grouping == "sum" else sums / counts
            return np.asarray(np.where(counts > 0, reduced, np.nan))


@dataclass(frozen=True)
class SignedScale:
    """Rows above and below a zero line, and the value of a row."""

    above: int
    below: int
    unit: float

    @classmethod
    def of(cls, values: Floats, height: int) -> "SignedScale":
        """The scale on which signed bars fill ``height`` rows, zero line included."""
        low, high = bounds(values)
        low, high = min(low, 0.0), max(high, 0.0)
        rows = max(2, height - 1)
        above = rows // 2 if low == high else round(rows * high / (high - low))
        above = max(int(high > 0), min(rows - int(low < 0), above))
        below = rows - above
        unit = max(high / above if above else 0.0, -low / below if below else 0.0)
        return cls(above, below, unit)


def signed_rows(values: Floats, scale: SignedScale) -> list[str]:
    """Rows of signed bars; one character per bar."""
    halves = [_halves(value, scale) for value in values]
    up = ["".join(_UP[_part(h, row, 2)] for h in halves) for row in reversed(range(scale.above))]
    down = ["".join(_DOWN[_part(-h, row, 2)] for h in halves) for row in range(scale.below)]
    return [*up, ZERO_LINE * len(values), *down]


def filled_rows(values: Floats, height: int, low: float, high: float) -> list[str]:
    """Rows of filled bars: empty at ``low``, full at ``high``."""
    span = high - low
    levels = []
    for value in values:
        if np.isnan(value):
            levels.append(0)
        elif not span > 0:
            levels.append(1)
        else:
            levels.append(max(1, round(8 * height * float(np.clip((value - low) / span, 0, 1)))))
    return [
        "".join(_EIGHTHS[_part(level, row, 8)] for level in levels)
        for row in reversed(range(height))
    ]


def bounds(values: Floats) -> tuple[float, float]:
    """Smallest and largest finite value; (0, 0) if there is none."""
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)


def heights(room: int) -> tuple[int, int, int, int]:
    """Rows of the first four charts; in a small room the fourth and second disappear first."""
    if room < 9:
        return max(3, room), 0, 0, 0
    if room < 13:
        return room - 3, 0, 3, 0
    fourth = max(2, room // 9)
    third = max(3, room // 6)
    second = max(3, room // 4)
    return room - second - third - fourth, second, third, fourth


def _halves(value: float, scale: SignedScale) -> int:
    if np.isnan(value) or value == 0 or not scale.unit > 0:
        return 0
    most = 2 * (scale.above if value > 0 else scale.below)
    size = max(1, min(most, round(2 * abs(value) / scale.unit)))
    return size if value > 0 else -size


def _part(level: int, row: int, per_cell: int) -> int:
    return max(0, min(per_cell, level - per_cell * row))


class StepCharts(Widget, can_focus=True):
    """Up to four charts, as many as fit. ``n`` and ``N`` jump to strong steps of the first."""

    DEFAULT_CSS = """
    StepCharts { height: 1fr; min-height: 8; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l,right", "move(1)", "step", show=False, tooltip="Next step or bar."),
        Binding("h,left", "move(-1)", "step", show=False, tooltip="Previous step or bar."),
        Binding("pagedown", "move(10)", show=False, tooltip="Ten bars forward."),
        Binding("pageup", "move(-10)", show=False, tooltip="Ten bars back."),
        Binding("g,home", "ends(0)", show=False, tooltip="First step."),
        Binding("G,end", "ends(1)", show=False, tooltip="Last step."),
        Binding("n", "strong(1)", "strong step", tooltip="Next strong step."),
        Binding("N", "strong(-1)", show=False, tooltip="Previous strong step."),
        Binding("plus,equals_sign", "zoom(0.5)", "zoom", tooltip="Zoom in at the cursor."),
        Binding("minus", "zoom(2)", show=False, tooltip="Zoom out."),
        Binding("enter", "choose", "its documents", tooltip="Documents of the step's batch."),
    ]

    class Moved(Message):
        """The cursor is on another step."""

    class Chosen(Message):
        """Enter was pressed on a step."""

    def __init__(self) -> None:
        """No charts."""
        super().__init__()
        self.charts: Sequence[Chart] = ()
        self.cursor = 0
        self._first, self._count = 0, 0
        self._rendered: list[Text] = []
        self._cached: tuple[object, list[Text]] | None = None
        """The charts without the cursor, and what they depend on."""

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.charts[0].values) if self.charts else 0

    @property
    def group(self) -> tuple[int, int]:
        """Steps of the bar under the cursor: the first, and the one after the last."""
        window = self._window()
        return window.steps_of(window.group_of(self.cursor)) if self.charts else (0, 0)

    @property
    def strongest(self) -> int:
        """The step of the largest absolute value in the bar under the cursor."""
        first, last = self.group
        if last <= first:
            return 0
        return first + int(np.abs(self.charts[0].values[first:last]).argmax())

    def update(self, charts: Sequence[Chart], cursor: int | None = None) -> None:
        """Replace the charts; the cursor stays unless ``cursor`` is given."""
        before = self.steps
        self.charts, self._cached = charts, None
        if self.steps != before:
            self._first, self._count = 0, self.steps
        if charts:
            self._place(self.cursor if cursor is None else cursor)
        self._redraw()

    def go_to(self, step: int) -> None:
        """Move the cursor to a step."""
        if self.charts:
            self._place(step)
            self._redraw()
            self.post_message(self.Moved())

    def render_line(self, y: int) -> Strip:
        """One row."""
        width = self.size.width
        if y >= len(self._rendered):
            return Strip.blank(width, self.rich_style)
        return text_strip(self._rendered[y], self).adjust_cell_length(width, self.rich_style)

    def on_resize(self, event: events.Resize) -> None:
        """Redraw in another size."""
        self._redraw()

    def action_move(self, bars: int) -> None:
        """Move the cursor by bars."""
        self.go_to(self.cursor + bars * self._window().steps_per_column)

    def action_ends(self, last: int) -> None:
        """Move to the first or the last step."""
        self.go_to(self.steps - 1 if last else 0)

    def action_strong(self, direction: int) -> None:
        """Move to the next of the strongest twentieth of all steps, at least five."""
        if not self.charts:
            return
        sizes = np.abs(self.charts[0].values)
        count = max(5, len(sizes) // 20)
        strong = np.sort(np.argsort(-sizes, kind="stable")[:count])
        after = strong[direction * (strong - self.cursor) > 0]
        if len(after):
            self.go_to(int(after[0] if direction > 0 else after[-1]))

    def action_zoom(self, factor: float) -> None:
        """Show half or twice as many steps around the cursor."""
        if not self.charts:
            return
        steps = self.steps
        self._count = max(min(_FEWEST_STEPS, steps), min(steps, round(self._count * factor)))
        self._first = max(0, min(self.cursor - self._count // 2, steps - self._count))
        self._redraw()
        self.post_message(self.Moved())

    def action_choose(self) -> None:
        """Choose the step under the cursor."""
        if self.charts:
            self.post_message(self.Chosen())

    def _place(self, step: int) -> None:
        self.cursor = max(0, min(step, self.steps - 1))
        if self.cursor < self._first:
            self._first = self.cursor
        elif self.cursor >= self._first + self._count:
            self._first = self.cursor - self._count + 1
        self._first = max(0, min(self._first, self.steps - self._count))

    def _window(self) -> Window:
        return Window(self._first, max(1, self._count), max(1, self.size.width - GUTTER))

    def _redraw(self) -> None:
        self._rendered = self._rows() if self.charts else []
        self.refresh()

    def _rows(self) -> list[Text]:
        key = (self._window(), self.size.height)
        if self._cached is None or self._cached[0] != key:
            self._cached = key, self._chart_rows()
        return [*(self._with_cursor(row.copy()) for row in self._cached[1]), self._axis()]

    def _chart_rows(self) -> list[Text]:
        window = self._window()
        rows: list[Text] = []
        for chart, height in zip(self.charts, heights(self.size.height - 1), strict=False):
            if height:
                values = window.grouped(chart.values, chart.grouping)
                rows += (self._signed if chart.style is None else self._filled)(
                    chart, values, height
                )
        return rows

    def _signed(self, chart: Chart, values: Floats, height: int) -> list[Text]:
        scale = SignedScale.of(values, height)
        rows = []
        for index, row in enumerate(signed_rows(values, scale)):
            label = chart.name if index == scale.above else ""
            if index == 0 and scale.above:
                label = scale_text(scale.unit * scale.above)
            elif index == scale.above + scale.below and scale.below:
                label = scale_text(-scale.unit * scale.below)
            style = (HARMFUL, "dim", HELPFUL)[(index >= scale.above) + (index > scale.above)]
            rows.append(self._row(label, row, style))
        return rows

    def _filled(self, chart: Chart, values: Floats, height: int) -> list[Text]:
        low, high = bounds(values)
        low = 0.0 if chart.from_zero else low
        rows = []
        for index, row in enumerate(filled_rows(values, height, low, high)):
            label = f"{chart.name} {scale_text(high).strip()}" if index == 0 else ""
            if index == height - 1 and height > 1:
                label = scale_text(low).strip()
            rows.append(self._row(label, row, chart.style or ""))
        return rows

    def _row(self, label: str, bars: str, style: str) -> Text:
        wide = "".join(bar * self._window().columns_per_step for bar in bars)
        text = Text(label[: GUTTER - 1].rjust(GUTTER - 1) + " ", "dim", no_wrap=True, end="")
        return text.append(wide, Style.parse(f"not dim {style}"))

    def _with_cursor(self, row: Text) -> Text:
        window = self._window()
        start, end = (GUTTER + c for c in window.columns_of(window.group_of(self.cursor)))
        plain = row.plain[start:end]
        if not plain.strip(" " + ZERO_LINE):
            row = row[:start].append("┊" * (end - start), "bold").append_text(row[end:])
        elif self.app.no_color:
            row = row[:start].append(plain.replace("█", _CURSOR_SHADE)).append_text(row[end:])
        else:
            row.stylize("bold color(231)", start, end)
        return row

    def _axis(self) -> Text:
        window = self._window()
        last = self._first + self._count - 1
        columns = window.groups * window.columns_per_step
        line = list(" " * max(columns, GUTTER))
        at = window.columns_of(window.group_of(self.cursor))[0]
        left, right, here = str(self._first), str(last), f"▲ {self.cursor}"
        line[: len(left)] = left
        line[max(0, columns - len(right)) : columns] = right
        place = max(0, min(at, columns - len(here)))
        before, after = max(0, place - 1), min(len(line), place + len(here) + 1)
        line[before:after] = " " * (place - before) + here + " " * (after - place - len(here))
        return Text("step".rjust(GUTTER - 1) + " " + "".join(line), "dim", no_wrap=True, end="")
