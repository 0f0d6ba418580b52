"""Line filters for limited terminals: ASCII only, or a light background."""

import os
from functools import lru_cache

from rich.cells import cell_len
from rich.color import Color as RichColor
from rich.color_triplet import ColorTriplet
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter

_SIGNS = {
    "█": "#", "▉": "#", "▊": "#", "▋": "#", "▌": "#", "▍": "=", "▎": "=", "▏": "-", "▐": "#",
    "▓": "#", "▒": "%", "░": ".", "▁": "_", "▂": "_", "▃": "-", "▄": "-", "▅": "=", "▆": "=",
    "▇": "#", "▀": "\"", "│": "|", "┃": "|", "─": "-", "━": "-", "┄": "-", "┊": ":",
    "┌": "+", "┐": "+", "└": "+", "┘": "+", "├": "+", "┤": "+", "┬": "+", "┴": "+", "┼": "+",
    "╭": "+", "╮": "+", "╰": "+", "╯": "+", "╷": "|", "╵": "|", "╴": "-", "╶": "-",
    "·": ".", "…": "~", "–": "-", "—": "-", "−": "-", "×": "x", "→": ">", "←": "<", "↑": "^",
    "↓": "v", "↕": "|", "▶": ">", "◀": "<", "▸": ">", "◂": "<", "▲": "^", "▼": "v", "⏎": "<",
    "✓": "v", "✗": "x", "○": "o", "●": "*", "◔": "o", "◑": "o", "◒": "o", "◼": "#", "◆": "*",
    "◇": "o", "‖": "=", "⊘": "0", "■": "#", "□": "o", "•": "*", "≈": "~", "≥": ">", "≤": "<",
    "▔": "-", "▕": "|", "▖": ".", "▗": ".", "▘": "'", "▝": "'", "═": "=", "║": "|",
    "┏": "+", "┓": "+", "┗": "+", "┛": "+", "╔": "+", "╗": "+", "╚": "+", "╝": "+", "🔎": "/ ",
    "“": "\"", "”": "\"", "’": "'", "φ": "f", "∂": "d", "Σ": "S", "⟨": "<", "⟩": ">",
}  # fmt: skip
_SET_BY_PYTHON = ("C.UTF-8", "C.utf8", "UTF-8")
"""Values that Python itself sets in LC_CTYPE when the locale is C."""
_BRAILLE = range(0x2800, 0x2900)


def supports_unicode() -> bool:
    """Whether this terminal shows more than ASCII."""
    # The encoding of stdout is no evidence: Python uses UTF-8 in the C locale too. Without any
    # setting, as in most containers, assume a modern terminal.
    every, signs, language = map(os.environ.get, ("LC_ALL", "LC_CTYPE", "LANG"))
    if signs in _SET_BY_PYTHON and language in ("C", "POSIX"):
        signs = None
    locale = every or signs or language or "UTF-8"
    utf8 = "UTF8" in locale.upper().replace("-", "")
    return utf8 and os.environ.get("TERM") not in ("linux", "dumb")


@lru_cache(4096)
def as_ascii(text: str) -> str:
    """``text`` in ASCII at the same width; characters without a likeness become ``?``."""
    return text if text.isascii() else "".join(map(_sign, text))


def _sign(character: str) -> str:
    if character.isascii():
        return character
    if ord(character) in _BRAILLE:
        return "*" if ord(character) > _BRAILLE.start else " "
    return _SIGNS.get(character) or "?" * cell_len(character)


class AsciiGlyphs(LineFilter):
    """Replaces all characters outside ASCII, if enabled."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The segments in ASCII."""
        if not self.enabled:
            return segments
        return [Segment(as_ascii(text), style, control) for text, style, control in segments]


_DARKER = {
    33: 27, 67: 24, 75: 27,
    137: 94, 172: 130, 208: 130,
    140: 97, 141: 98,
    231: 16, 250: 244,
}  # fmt: skip
"""Colours for a dark background and their readable shades on a light one (256-colour numbers).

The hue keeps its meaning: blue is helpful, orange harmful, violet a loss.
"""


def _triplet(number: int) -> ColorTriplet:
    return RichColor.from_ansi(number).get_truecolor()


_BY_TRIPLET = {_triplet(dark): RichColor.from_ansi(light) for dark, light in _DARKER.items()}


class LightColours(LineFilter):
    """Darkens text on a light background, if enabled."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The segments in readable colours."""
        if not self.enabled:
            return segments
        return [
            Segment(text, style and darkened(style), control) for text, style, control in segments
        ]


@lru_cache(1024)
def darkened(style: Style) -> Style:
    """A style readable on a light background; styles with a dark background stay unchanged."""
    if style.color is None or style.color.is_default:
        return style
    if style.bgcolor is not None and not style.bgcolor.is_default:
        below = Color.from_rich_color(style.bgcolor)
        if below.brightness < 0.5:
            return style
    darker = _BY_TRIPLET.get(style.color.get_truecolor())
    return style if darker is None else style + Style(color=darker)
