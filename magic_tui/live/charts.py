"""Loss, learning rate and cotangent norm over the same steps, side by side."""

from typing import TYPE_CHECKING

from rich.text import Text
from textual.content import Content
from textual.widget import Widget

if TYPE_CHECKING:
    from magic_tui.live.run_history import Snapshot

_TITLES = {"loss": "loss", "learning_rate": "learning rate", "cotangent": "cotangent"}
_GAP = 2


class Charts(Widget):
    """Three curves."""

    DEFAULT_CSS = """
    Charts { height: 6; padding: 0 1; }
    """

    _moment: "Snapshot | None" = None
    _steps = (0, 1)
    _drawn = Text()

    def show(self, moment: "Snapshot", steps: tuple[int, int]) -> None:
        """Show the curves of a moment over some steps."""
        self._moment, self._steps = moment, steps
        self._paint()

    def on_resize(self) -> None:
        """Draw in another size."""
        self._paint()

    def render(self) -> Content:
        """As many lines as there is height."""
        return Content.from_rich_text(self._drawn)

    def _paint(self) -> None:
        """Send nothing over the line if nothing changed."""
        drawn = self._draw()
        if drawn != self._drawn:
            self._drawn = drawn
            self.refresh()

    def _draw(self) -> Text:
        if self._moment is None:
            return Text()
        # Behind the first frame: it computes with arrays, which take long to load.
        from magic_tui.text.chart import curve_lines

        width = (self.size.width - _GAP * 2) // 3
        size = (width, max(2, self.size.height))
        charts = [
            curve_lines(title, self._moment.curves[name], self._steps, size)
            for name, title in _TITLES.items()
        ]
        lines = []
        for row in zip(*charts, strict=True):
            line = Text(no_wrap=True)
            for index, part in enumerate(row):
                line.append_text(part)
                line.pad_right(max(0, (index + 1) * (width + _GAP) - line.cell_len))
            lines.append(line)
        return Text("\n", no_wrap=True).join(lines)
