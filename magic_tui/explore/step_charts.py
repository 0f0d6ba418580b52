"""Influence, its sum so far, loss and learning rate over the steps, under one cursor."""

from typing import ClassVar

import numpy as np
from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from magic_tui.explore.curves import Curves
from magic_tui.explore.top_lines import HARMFUL, HELPFUL
from magic_tui.text.step_charts import (
    ZERO_LINE,
    Floats,
    SignedScale,
    Window,
    bounds,
    filled_rows,
    heights,
    scale_text,
    signed_rows,
)
from magic_tui.widgets.lines import text_strip

GUTTER = 11
"""Cells left of the charts, for names and scales."""
_FEWEST = 4
"""Steps that are shown at the least."""
_SHADED = "▒"
"""A bar under the cursor where there is no colour."""
_LOSS, _RATE = "color(250)", "color(140)"


class StepCharts(Widget, can_focus=True):
    """As many charts as there is room for; the first is the influence of each step."""

    DEFAULT_CSS = """
    StepCharts { height: 1fr; min-height: 8; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l,right", "move(1)", "step", show=False, tooltip="Next step, or group of them."),
        Binding("h,left", "move(-1)", "step", show=False, tooltip="Step before."),
        Binding("pagedown", "move(10)", show=False, tooltip="Ten bars on."),
        Binding("pageup", "move(-10)", show=False, tooltip="Ten bars back."),
        Binding("g,home", "ends(False)", show=False, tooltip="First step."),
        Binding("G,end", "ends(True)", show=False, tooltip="Last step."),
        Binding("n", "strong(1)", "strong step", tooltip="Next step of strong influence."),
        Binding("N", "strong(-1)", show=False, tooltip="Step of strong influence before."),
        Binding("plus,equals_sign", "zoom(0.5)", "zoom", tooltip="Fewer steps, around the cursor."),
        Binding("minus", "zoom(2)", show=False, tooltip="More steps."),
        Binding("enter", "choose", "its documents", tooltip="The documents of that batch."),
    ]

    class Moved(Message):
        """The cursor stands on another step."""

    class Chosen(Message):
        """The batch under the cursor was chosen."""

    def __init__(self) -> None:
        """Nothing to show yet."""
        super().__init__()
        self.curves: Curves | None = None
        self.cursor = 0
        self._first, self._count = 0, 0
        self._drawn: list[Text] = []
        self._bare: tuple[object, list[Text]] | None = None
        """The charts without their cursor, and what they depend on."""

    @property
    def group(self) -> tuple[int, int]:
        """The steps under the cursor: from the first up to, not with, the last."""
        window = self._window()
        return window.steps_of(window.group_of(self.cursor)) if self.curves else (0, 0)

    @property
    def strongest(self) -> int:
        """The step of largest |influence| under the cursor."""
        first, last = self.group
        if self.curves is None or last <= first:
            return 0
        return first + int(np.abs(self.curves.influence[first:last]).argmax())

    def show(self, curves: Curves | None, cursor: int | None = None) -> None:
        """Show other curves, the cursor where it was unless it is said where."""
        changed = (curves and curves.steps) != (self.curves and self.curves.steps)
        self.curves, self._bare = curves, None
        if curves is not None and changed:
            self._first, self._count = 0, curves.steps
        if curves is not None:
            self._put(self.cursor if cursor is None else cursor)
        self._draw()

    def render_line(self, y: int) -> Strip:
        """One row of one chart."""
        width = self.size.width
        if y >= len(self._drawn):
            return Strip.blank(width, self.rich_style)
        return text_strip(self._drawn[y], self).adjust_cell_length(width, self.rich_style)

    def on_resize(self, event: events.Resize) -> None:
        """Draw in another size."""
        self._draw()

    def action_move(self, bars: int) -> None:
        """Move the cursor."""
        self._go(self.cursor + bars * self._window().steps_per_column)

    def action_ends(self, last: bool) -> None:
        """Move to the first or the last step."""
        if self.curves is not None:
            self._go(self.curves.steps - 1 if last else 0)

    def action_strong(self, direction: int) -> None:
        """Move to the next of the strongest steps, a twentieth of all but at least five."""
        if self.curves is None:
            return
        sizes = np.abs(self.curves.influence)
        count = max(5, len(sizes) // 20)
        strong = np.sort(np.argsort(-sizes, kind="stable")[:count])
        after = strong[direction * (strong - self.cursor) > 0]
        if len(after):
            self._go(int(after[0] if direction > 0 else after[-1]))

    def action_zoom(self, factor: float) -> None:
        """Show half or twice as many steps, around the cursor."""
        if self.curves is None:
            return
        steps = self.curves.steps
        self._count = max(min(_FEWEST, steps), min(steps, round(self._count * factor)))
        self._first = max(0, min(self.cursor - self._count // 2, steps - self._count))
        self._draw()
        self.post_message(self.Moved())

    def action_choose(self) -> None:
        """Choose the batch under the cursor."""
        if self.curves is not None:
            self.post_message(self.Chosen())

    def _go(self, step: int) -> None:
        if self.curves is not None:
            self._put(step)
            self._draw()
            self.post_message(self.Moved())

    def _put(self, step: int) -> None:
        assert self.curves is not None
        steps = self.curves.steps
        self.cursor = max(0, min(step, steps - 1))
        if self.cursor < self._first:
            self._first = self.cursor
        elif self.cursor >= self._first + self._count:
            self._first = self.cursor - self._count + 1
        self._first = max(0, min(self._first, steps - self._count))

    def _window(self) -> Window:
        return Window(self._first, max(1, self._count), max(1, self.size.width - GUTTER))

    def _draw(self) -> None:
        self._drawn = self._charts() if self.curves is not None else []
        self.refresh()

    def _charts(self) -> list[Text]:
        key = (id(self.curves), self._window(), self.size.height)
        if self._bare is None or self._bare[0] != key:
            self._bare = key, self._without_cursor()
        return [*(self._with_cursor(row.copy()) for row in self._bare[1]), self._axis()]

    def _without_cursor(self) -> list[Text]:
        assert self.curves is not None
        curves, window = self.curves, self._window()
        influence, total, loss, rate = heights(self.size.height - 1)
        rows = self._signed("influence", window.grouped(curves.influence, "sum"), influence)
        if total:
            rows += self._signed("sum so far", window.grouped(curves.cumulative, "last"), total)
        if loss:
            rows += self._filled("loss", window.grouped(curves.losses, "mean"), loss, _LOSS)
        if rate:
            values = window.grouped(curves.rates, "mean")
            rows += self._filled("rate", values, rate, _RATE, from_zero=True)
        return rows

    def _signed(self, name: str, values: Floats, height: int) -> list[Text]:
        scale = SignedScale.of(values, height)
        made = []
        for index, row in enumerate(signed_rows(values, scale)):
            label = name if index == scale.above else ""
            if index == 0 and scale.above:
                label = scale_text(scale.unit * scale.above)
            elif index == scale.above + scale.below and scale.below:
                label = scale_text(-scale.unit * scale.below)
            style = (HARMFUL, "dim", HELPFUL)[(index >= scale.above) + (index > scale.above)]
            made.append(self._row(label, row, style))
        return made

    def _filled(
        self,
        name: str,
        values: Floats,
        height: int,
        style: str,
        from_zero: bool = False,
    ) -> list[Text]:
        low, high = bounds(values)
        low = 0.0 if from_zero else low
        made = []
        for index, row in enumerate(filled_rows(values, height, low, high)):
            label = f"{name} {scale_text(high).strip()}" if index == 0 else ""
            if index == height - 1 and height > 1:
                label = scale_text(low).strip()
            made.append(self._row(label, row, style))
        return made

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
            row = row[:start].append(plain.replace("█", _SHADED)).append_text(row[end:])
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
