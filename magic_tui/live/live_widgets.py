"""The widgets of the Live screen: residency strip, curves, and the list of messages."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import events
from textual.binding import BindingType
from textual.content import Content
from textual.widget import Widget

from engine.runs.safe_text import one_line
from magic_tui.live.live_lines import message_lines
from magic_tui.text.cells import fit
from magic_tui.text.numbers import count_text
from magic_tui.widgets.virtual_list import VirtualList

if TYPE_CHECKING:
    from engine.runs.run_history import Message, Snapshot

_LEAST_STEPS = 10
_CURVES = {
    "loss": "loss",
    "learning_rate": "learning rate",
    "gradient_norm": "gradient norm ∂φ/∂s",
}
_GAP = 2


class Drawing(Widget):
    """A widget that is repainted only if its text changed: few bytes are sent over SSH."""

    _drawn = Text()

    def draw(self) -> Text:
        """The text to show."""
        raise NotImplementedError

    def update(self) -> None:
        """Draw, and repaint if the text differs from what is shown."""
        drawn = self.draw()
        if drawn != self._drawn:
            self._drawn = drawn
            self.refresh()

    def on_resize(self) -> None:
        """Draw at the new size."""
        self.update()

    def render(self) -> Content:
        """The text drawn last."""
        return Content.from_rich_text(self._drawn)


class ResidencyStrip(Drawing):
    """TRAIN, STORE and REPLAY over a window of steps, and a legend."""

    DEFAULT_CSS = """
    ResidencyStrip { height: 4; padding: 0 1; }
    """

    snapshot: "Snapshot | None" = None
    _count = 0
    """Steps in the window; 0 for all."""
    _first = 0

    @property
    def window(self) -> tuple[int, int]:
        """The window of steps: its first one, and the one after its last."""
        steps = self.snapshot.steps if self.snapshot is not None else 0
        count = min(self._count or steps, steps)
        first = max(0, min(self._first, steps - count))
        return first, first + count

    def set_snapshot(self, snapshot: "Snapshot") -> None:
        """Draw another snapshot."""
        self.snapshot = snapshot
        self.update()

    def zoom(self, factor: float) -> None:
        """Show fewer steps (``factor`` above 1) or more, at first around the current step."""
        if self.snapshot is None or not self.snapshot.steps:
            return
        first, last = self.window
        count = max(_LEAST_STEPS, round((last - first) / factor))
        centre = (first + last) // 2 if self._count else self._current_step()
        self._count = 0 if count >= self.snapshot.steps else count
        self._first = max(0, centre - count // 2)
        self.update()

    def pan(self, share: float) -> None:
        """Move the window by a share of its width."""
        first, last = self.window
        self._first = max(0, first + round((last - first) * share))
        self._first = self.window[0]
        self.update()

    def draw(self) -> Text:
        """Four lines."""
        if self.snapshot is None or not self.snapshot.steps:
            return Text("\nno step is trained yet" if self.snapshot is not None else "")
        # Imported after the first frame: it loads NumPy.
        from magic_tui.live.residency_strip import legend, strip_lines

        width, (first, last) = self.size.width, self.window
        lines = [*strip_lines(self.snapshot, first, last, width), legend(width)]
        if self._count:
            note = f"steps {count_text(first)} to {count_text(last - 1)}, 0 shows all"
            lines[-1] = Text(note.rjust(width), "dim", no_wrap=True)
        return Text("\n", no_wrap=True).join(lines)

    def _current_step(self) -> int:
        assert self.snapshot is not None
        cursor = self.snapshot.cursor
        return self.snapshot.trained if cursor is None else cursor


class Charts(Drawing):
    """Loss, learning rate and gradient norm over the same steps, side by side."""

    DEFAULT_CSS = """
    Charts { height: 6; padding: 0 1; }
    """

    _snapshot: "Snapshot | None" = None
    _steps = (0, 1)

    def set_snapshot(self, snapshot: "Snapshot", steps: tuple[int, int]) -> None:
        """Draw the curves of a snapshot over a window of steps."""
        self._snapshot, self._steps = snapshot, steps
        self.update()

    def draw(self) -> Text:
        """Three charts of the widget's height."""
        if self._snapshot is None:
            return Text()
        # Imported after the first frame: it loads NumPy.
        from magic_tui.text.chart import curve_lines

        width = (self.size.width - _GAP * 2) // 3
        size = (width, max(2, self.size.height))
        charts = [
            curve_lines(title, self._snapshot.curves[name], self._steps, size)
            for name, title in _CURVES.items()
        ]
        lines = []
        for row in zip(*charts, strict=True):
            line = Text(no_wrap=True)
            for index, part in enumerate(row):
                line.append_text(part)
                line.pad_right(max(0, (index + 1) * (width + _GAP) - line.cell_len))
            lines.append(line)
        return Text("\n", no_wrap=True).join(lines)


class MessageList(VirtualList, inherit_bindings=False):
    """The messages of a run, or what its libraries printed.

    Follows the newest line until the cursor is moved up, and again once it is back at the end.
    """

    BINDINGS: ClassVar[list[BindingType]] = VirtualList.BINDINGS[:-1]
    DEFAULT_CSS = """
    MessageList > .virtual-list--cursor { background: $surface; text-style: none; }
    MessageList:focus > .virtual-list--cursor {
        background: $surface-lighten-1; text-style: none;
    }
    """

    def __init__(self) -> None:
        """An empty list."""
        super().__init__()
        self._messages: Sequence[Message] = ()
        self._printed: Sequence[str] = ()
        self._lines: list[Text] = []

    def set_messages(self, messages: "Sequence[Message]") -> None:
        """Show messages."""
        if len(messages) != len(self._messages) or self._printed:
            self._messages, self._printed = messages, ()
            self._wrap()

    def set_printed(self, lines: Sequence[str]) -> None:
        """Show printed lines in place of messages."""
        if lines != self._printed or self._messages:
            self._printed, self._messages = lines or ("nothing was printed",), ()
            self._wrap()

    def on_resize(self, event: events.Resize) -> None:
        """Wrap at the new width."""
        self._wrap()

    def count(self) -> int:
        """The number of lines."""
        return len(self._lines)

    def line(self, index: int, width: int) -> Text:
        """One line."""
        return self._lines[index]

    def _wrap(self) -> None:
        following = self.cursor >= len(self._lines) - 1
        width = max(10, self.size.width - 2)
        self._lines = [line for each in self._messages for line in message_lines(each, width)]
        self._lines += [Text(fit(one_line(line), width), no_wrap=True) for line in self._printed]
        self.reload()
        if following and self._lines:
            self.move_to(len(self._lines) - 1)
