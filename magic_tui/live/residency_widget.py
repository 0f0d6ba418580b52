"""The step-residency strip with its window of steps."""

from typing import TYPE_CHECKING

from rich.text import Text
from textual.content import Content
from textual.widget import Widget

from magic_tui.text.numbers import count_text

if TYPE_CHECKING:
    from magic_tui.live.run_history import Snapshot

_LEAST = 10


class Residency(Widget):
    """TRAIN, STORE and REPLAY, and what the signs mean."""

    DEFAULT_CSS = """
    Residency { height: 4; padding: 0 1; }
    """

    moment: "Snapshot | None" = None
    _shown = 0
    """Steps in the window; 0 for all of them."""
    _first = 0
    _drawn = Text()

    @property
    def window(self) -> tuple[int, int]:
        """The first step shown and the one behind the last."""
        steps = self.moment.steps if self.moment is not None else 0
        count = min(self._shown or steps, steps)
        first = max(0, min(self._first, steps - count))
        return first, first + count

    def show(self, moment: "Snapshot") -> None:
        """Show a moment."""
        self.moment = moment
        self._paint()

    def zoom(self, factor: float) -> None:
        """Show fewer steps (``factor`` above 1) or more, around where the work is."""
        if self.moment is None or not self.moment.steps:
            return
        first, last = self.window
        count = max(_LEAST, round((last - first) / factor))
        centre = (first + last) // 2 if self._shown else self._busy()
        self._shown = 0 if count >= self.moment.steps else count
        self._first = max(0, centre - count // 2)
        self._paint()

    def pan(self, share: float) -> None:
        """Move the window by a share of its width."""
        first, last = self.window
        self._first = max(0, first + round((last - first) * share))
        self._first = self.window[0]
        self._paint()

    def on_resize(self) -> None:
        """Draw in another width."""
        self._paint()

    def render(self) -> Content:
        """Four lines."""
        return Content.from_rich_text(self._drawn)

    def _paint(self) -> None:
        """Send nothing over the line if nothing changed."""
        drawn = self._draw(self.size.width)
        if drawn != self._drawn:
            self._drawn = drawn
            self.refresh()

    def _draw(self, width: int) -> Text:
        if self.moment is None or not self.moment.steps:
            return Text("\nno step is trained yet" if self.moment is not None else "")
        # Behind the first frame: it computes with arrays, which take long to load.
        from magic_tui.live.residency_strip import legend, strip_lines

        first, last = self.window
        lines = [*strip_lines(self.moment, first, last, width), legend(width)]
        if self._shown:
            note = f"steps {count_text(first)} to {count_text(last - 1)}, 0 shows all"
            lines[-1] = Text(note.rjust(width), "dim", no_wrap=True)
        return Text("\n", no_wrap=True).join(lines)

    def _busy(self) -> int:
        """The step that is worked on."""
        assert self.moment is not None
        cursor = self.moment.cursor
        return self.moment.trained if cursor is None else cursor
