"""A few lines of text that a screen changes often."""

from collections.abc import Sequence

from rich.text import Text
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget


class Lines(Widget):
    """Lines that are drawn as they are, cut at the right edge; as high as it is told."""

    DEFAULT_CSS = """
    Lines { height: 1; padding: 0 1; }
    Lines.edge { padding: 0; }
    """

    def __init__(self, height: int = 1, id: str | None = None, classes: str | None = None) -> None:
        """Blank lines."""
        super().__init__(id=id, classes=classes)
        self._lines: list[Text] = []
        self.styles.height = height

    @property
    def text(self) -> str:
        """What is shown, without its colours."""
        return "\n".join(line.plain for line in self._lines)

    def show(self, lines: Sequence[Text]) -> None:
        """Show other lines; only those that differ are drawn again."""
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
    """A line of text on a widget's own background."""
    console = widget.app.console
    # Rich leaves the style of a whole text out if no part of it has another one.
    style = widget.rich_style + console.get_style(text.style, default="")
    return Strip([s for s in text.render(console, end="") if s.text]).apply_style(style)
