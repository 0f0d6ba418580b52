"""Curves drawn with blocks an eighth of a cell high, and the labels of charts."""

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from magic_tui.text.cells import fit
from magic_tui.text.numbers import score_text

Floats = NDArray[np.float64]
_BLOCKS = " ▁▂▃▄▅▆▇█"
_STYLE = "color(67)"


def curve_lines(
    title: str, curve: tuple[Floats, Floats], steps: tuple[int, int], size: tuple[int, int]
) -> list[Text]:
    """A title with the latest value, then the curve labelled with its minimum and maximum.

    Args:
        title: the title.
        curve: steps and values; values that are not finite leave a gap.
        steps: the first step of the chart and the step after its last.
        size: (width, height) in cells.
    """
    width, height = size
    at, values = curve
    good = np.isfinite(values) & (at >= steps[0]) & (at < steps[1])
    at, values = at[good], values[good]
    head = Text(no_wrap=True).append(fit(title, width), "bold")
    if not len(values):
        return [head, *_nothing(width, height - 1)]
    latest = f" {_figure(float(values[-1]))}"
    # A truncated number would look like another number.
    if head.cell_len + len(latest) <= width:
        head.append(latest, "dim")
    low, high = float(values.min()), float(values.max())
    marks = [_figure(high), *[""] * (height - 3), _figure(low)] if height > 2 else [_figure(high)]
    room = max(len(mark) for mark in marks) + 1
    rows = _area(at, values, steps, (max(1, width - room), height - 1))
    lines = [head]
    for row, mark in zip(rows, [*marks, *[""] * (height - 1 - len(marks))], strict=True):
        lines.append(
            Text(no_wrap=True).append(mark.rjust(room - 1) + " ", "dim").append(row, _STYLE)
        )
    return lines


def _nothing(width: int, height: int) -> list[Text]:
    words = ["nothing yet"] if width >= 12 else []
    lines = [Text(fit(word, width), "dim") for word in words]
    return [*lines, *[Text() for _ in range(height - len(lines))]]


def _area(at: Floats, values: Floats, steps: tuple[int, int], size: tuple[int, int]) -> list[str]:
    """A column is the mean of its steps; columns without values are interpolated linearly."""
    width, height = size
    x = ((at - steps[0]) / max(1, steps[1] - steps[0]) * width).astype(int).clip(0, width - 1)
    count = np.bincount(x, minlength=width)
    drawn = np.flatnonzero(count)
    means = np.bincount(x, values, minlength=width)[drawn] / count[drawn]
    columns = np.arange(drawn[0], drawn[-1] + 1)
    low, high = float(values.min()), float(values.max())
    level = np.interp(columns, drawn, means)
    share = np.full(len(columns), 0.5) if high == low else (level - low) / (high - low)
    eighths = np.zeros(width, dtype=int)
    eighths[columns] = np.maximum(1, np.round(share * 8 * height))
    rows = range(height - 1, -1, -1)
    return ["".join(_BLOCKS[min(8, max(0, e - 8 * row))] for e in eighths) for row in rows]


def _figure(value: float) -> str:
    """Four digits, in scientific notation where that is shorter."""
    if value == 0:
        return "0"
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.1e}".replace("e-0", "e-")


def scale_text(value: float) -> str:
    """A number for the edge of a chart, nine cells wide."""
    if np.isnan(value):
        return "–".rjust(9)
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}".rjust(9)
    return score_text(value)[-9:].rjust(9) if value < 0 else f"{value:.2e}".rjust(9)
