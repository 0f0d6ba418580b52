"""A few lines of text that change often."""

from collections.abc import Sequence

from rich.text import Text
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget


class Lines(Widget):
    """Lines cut at the right edge. Only changed lines are redrawn, unlike with ``Static``."""

    DEFAULT_CSS = """
    Lines { height: 1; padding: 0 1; }
    Lines.edge { padding: 0; }
    """

    def __init__(self, height: int = 1, id: str | None = None, classes: str | None = None) -> None:
        """Blank lines; ``height`` is fixed."""
        super().__init__(id=id, classes=classes)
        self._lines: list[Text] = []
        self.styles.height = height

    @property
    def text(self) -> str:
        """The text without styles."""
        return "\n".join(line.plain for line in self._lines)

    def update(self, lines: Sequence[Text]) -> None:
        """Replace the lines."""
        before, self._lines = self._lines, list(lines)
        if len(before) != len(self._lines):
            self.refresh()
            return
        for y, (old, new) in enumerate(zip(before, self._lines, strict=True)):
            if old != new or old.spans != new.spans:
                self.refresh(Region(0, y, self.outer_size.width, 1))

    def render_line(self, y: int) -> Strip:
        """One line."""
        style, width = self.rich_style, self.size.width
        if y >= len(self._lines):
            return Strip.blank(width, style)
        return text_strip(self._lines[y], self).adjust_cell_length(width, style)


def text_strip(text: Text, widget: Widget) -> Strip:
    """A line of text on the widget's background."""
    console = widget.app.console
    # Rich drops the style of the whole text if no span of it has a style.
    style = widget.rich_style + console.get_style(text.style, default="")
    return Strip([s for s in text.render(console, end="") if s.text]).apply_style(style)
