"""The dashboard on terminals that speak only ASCII: every sign becomes one of the same width."""

import os
from functools import lru_cache

from rich.cells import cell_len
from rich.segment import Segment
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
"""What Python writes into LC_CTYPE as it starts if the locale is C."""
_BRAILLE = range(0x2800, 0x2900)


def speaks_unicode() -> bool:
    """Whether this terminal shows more than ASCII."""
    # Not the encoding of stdout: Python writes UTF-8 where the locale is C as well. Where nothing
    # is said, as in most containers, the terminal outside is one of today's.
    every, signs, language = map(os.environ.get, ("LC_ALL", "LC_CTYPE", "LANG"))
    if signs in _SET_BY_PYTHON and language in ("C", "POSIX"):
        signs = None
    locale = every or signs or language or "UTF-8"
    speaks = "UTF8" in locale.upper().replace("-", "")
    return speaks and os.environ.get("TERM") not in ("linux", "dumb")


@lru_cache(4096)
def as_ascii(text: str) -> str:
    """``text`` in ASCII, as many cells wide as it was; what has no likeness is ``?``."""
    return text if text.isascii() else "".join(map(_sign, text))


def _sign(character: str) -> str:
    if character.isascii():
        return character
    if ord(character) in _BRAILLE:
        return "*" if ord(character) > _BRAILLE.start else " "
    return _SIGNS.get(character) or "?" * cell_len(character)


class AsciiGlyphs(LineFilter):
    """Puts every line of the screen into ASCII, if enabled."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same segments with signs replaced."""
        if not self.enabled:
            return segments
        return [Segment(as_ascii(text), style, control) for text, style, control in segments]
