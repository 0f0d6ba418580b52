"""Charts over training steps in characters: bars about a zero line, bars from the foot.

Half blocks make two levels a cell, for bars up and down alike; a value that is not zero always
shows at least half a cell.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from magic_tui.text.numbers import score_text

Floats = NDArray[np.float64]
ZERO_LINE = "─"
_UP = " ▄█"
_DOWN = " ▀█"
_EIGHTHS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Window:
    """Which steps are shown, and how they share the columns."""

    first: int
    count: int
    width: int
    """Columns there are."""

    @property
    def steps_per_column(self) -> int:
        """How many steps one column stands for."""
        return max(1, -(-self.count // max(1, self.width)))

    @property
    def columns_per_step(self) -> int:
        """How many columns one step takes where there are fewer steps than columns."""
        return max(1, self.width // max(1, self.count)) if self.steps_per_column == 1 else 1

    @property
    def groups(self) -> int:
        """How many bars there are."""
        return -(-self.count // self.steps_per_column)

    def group_of(self, step: int) -> int:
        """The bar that a step is in."""
        return (step - self.first) // self.steps_per_column

    def steps_of(self, group: int) -> tuple[int, int]:
        """The steps of a bar: from the first up to, not with, the last."""
        start = self.first + group * self.steps_per_column
        return start, min(start + self.steps_per_column, self.first + self.count)

    def columns_of(self, group: int) -> tuple[int, int]:
        """The columns of a bar: from the first up to, not with, the last."""
        return group * self.columns_per_step, (group + 1) * self.columns_per_step

    def grouped(self, values: Floats, how: str) -> Floats:
        """(bar,) The sum, mean or last of each bar's steps; NaN where none is known."""
        part = values[self.first : self.first + self.count].astype(np.float64)
        padded = np.full(self.groups * self.steps_per_column, np.nan)
        padded[: len(part)] = part
        table = padded.reshape(self.groups, self.steps_per_column)
        known = ~np.isnan(table)
        counts = known.sum(1)
        if how == "last":
            last = np.where(known, np.arange(table.shape[1]), -1).max(1)
            return np.asarray(np.where(counts > 0, table[np.arange(len(table)), last], np.nan))
        sums = np.where(known, table, 0.0).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(counts > 0, sums if how == "sum" else sums / counts, np.nan))


@dataclass(frozen=True)
class SignedScale:
    """How many rows stand above and below a zero line, and what value a row stands for."""

    above: int
    below: int
    unit: float

    @classmethod
    def of(cls, values: Floats, height: int) -> "SignedScale":
        """The scale on which bars about a zero line fill ``height`` rows, that line included."""
        low, high = bounds(values)
        low, high = min(low, 0.0), max(high, 0.0)
        rows = max(2, height - 1)
        above = rows // 2 if low == high else round(rows * high / (high - low))
        above = max(int(high > 0), min(rows - int(low < 0), above))
        below = rows - above
        unit = max(high / above if above else 0.0, -low / below if below else 0.0)
        return cls(above, below, unit)


def signed_rows(values: Floats, scale: SignedScale) -> list[str]:
    """The rows of bars about a zero line; a character a bar."""
    halves = [_halves(value, scale) for value in values]
    up = ["".join(_UP[_part(h, row, 2)] for h in halves) for row in reversed(range(scale.above))]
    down = ["".join(_DOWN[_part(-h, row, 2)] for h in halves) for row in range(scale.below)]
    return [*up, ZERO_LINE * len(values), *down]


def filled_rows(values: Floats, height: int, low: float, high: float) -> list[str]:
    """Bars from the foot, where ``low`` is the least that shows and ``high`` fills them."""
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


def scale_text(value: float) -> str:
    """A number for the edge of a chart, in nine cells."""
    if np.isnan(value):
        return "–".rjust(9)
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}".rjust(9)
    return score_text(value)[-9:].rjust(9) if value < 0 else f"{value:.2e}".rjust(9)


def bounds(values: Floats) -> tuple[float, float]:
    """The least and the largest known value; (0, 0) if none is."""
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)


def heights(room: int) -> tuple[int, int, int, int]:
    """Rows of the charts of influence, its sum, loss and rate; the last ones give way first."""
    if room < 9:
        return max(3, room), 0, 0, 0
    if room < 13:
        return room - 3, 0, 3, 0
    rate = max(2, room // 9)
    loss = max(3, room // 6)
    total = max(3, room // 4)
    return room - total - loss - rate, total, loss, rate


def _halves(value: float, scale: SignedScale) -> int:
    if np.isnan(value) or value == 0 or not scale.unit > 0:
        return 0
    most = 2 * (scale.above if value > 0 else scale.below)
    size = max(1, min(most, round(2 * abs(value) / scale.unit)))
    return size if value > 0 else -size


def _part(level: int, row: int, per_cell: int) -> int:
    return max(0, min(per_cell, level - per_cell * row))
