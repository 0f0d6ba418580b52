"""Colours made for a dark background, in shades that can be read on a light one.

Every meaning keeps its hue: blue helps, orange harms, violet is a loss.
"""

from functools import lru_cache

from rich.color import Color as RichColor
from rich.color_triplet import ColorTriplet
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter

_DARKER = {
    33: 27, 67: 24, 75: 27,
    137: 94, 172: 130, 208: 130,
    140: 97, 141: 98,
    231: 16, 250: 244,
}  # fmt: skip
"""By number in the table of 256: text and bars on the background of the screen."""


def _triplet(number: int) -> ColorTriplet:
    return RichColor.from_ansi(number).get_truecolor()


_BY_TRIPLET = {_triplet(dark): RichColor.from_ansi(light) for dark, light in _DARKER.items()}


class LightColours(LineFilter):
    """Darkens what stands on a light background, if enabled."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same segments in other colours."""
        if not self.enabled:
            return segments
        return [
            Segment(text, style and darkened(style), control) for text, style, control in segments
        ]


@lru_cache(1024)
def darkened(style: Style) -> Style:
    """A style to be read on a light background; one that stands on a dark one stays."""
    if style.color is None or style.color.is_default:
        return style
    if style.bgcolor is not None and not style.bgcolor.is_default:
        below = Color.from_rich_color(style.bgcolor)
        if below.brightness < 0.5:
            return style
    darker = _BY_TRIPLET.get(style.color.get_truecolor())
    return style if darker is None else style + Style(color=darker)
