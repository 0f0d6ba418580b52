"""Tokens coloured by their scores: seven levels from helpful (blue) over none to harmful (orange).

Levels are relative to the strongest token shown. Without colour each line of text is followed by a
line of marks: ``= -`` under helpful tokens and ``+ #`` under harmful ones.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from engine.runs.safe_text import safe_text
from magic_tui.text.numbers import score_text, share_text

THRESHOLDS = (0.1, 0.3, 0.6)
"""Shares of the strongest token's |score| at which levels 1, 2 and 3 begin."""

_STYLES = {
    -3: Style(color="color(16)", bgcolor="color(75)"),
    -2: Style(color="color(33)", bold=True),
    -1: Style(color="color(67)"),
    0: Style(),
    1: Style(color="color(137)"),
    2: Style(color="color(172)", bold=True),
    3: Style(color="color(16)", bgcolor="color(208)"),
}
_MARKS = {-3: "=", -2: "-", -1: " ", 0: " ", 1: " ", 2: "+", 3: "#"}
_NO_LOSS = Style(dim=True)
_PARTS = re.compile(r"\n|[^ \n]* |[^ \n]+")
_LONGEST_WORD = 256
"""Tokens of a word that are kept on one line."""


@dataclass(frozen=True)
class Shade:
    """A stretch of text and how to show it: its level, and whether the model learned from it."""

    text: str
    level: int = 0
    learned: bool = True

    @property
    def style(self) -> Style:
        """The style of its level; dim where there was no loss."""
        return _STYLES[self.level] if self.learned else _NO_LOSS


def level_of(score: float, strongest: float) -> int:
    """Level -3 … 3 of a score, ``strongest`` being the largest |score| of the scale."""
    if not strongest > 0 or score != score:
        return 0
    level = sum(abs(score) >= threshold * strongest for threshold in THRESHOLDS)
    return -level if score < 0 else level


@dataclass(frozen=True)
class Colours:
    """How to show each piece of a document, however many there are."""

    levels: NDArray[np.int8]
    learned: NDArray[np.bool_]

    def shade(self, piece: int, text: str) -> Shade:
        """A stretch of a piece's text."""
        return Shade(text, int(self.levels[piece]), bool(self.learned[piece]))


NO_COLOURS = Colours(np.zeros(0, np.int8), np.zeros(0, np.bool_))


def levels_of(scores: NDArray[np.float64], strongest: float) -> NDArray[np.int8]:
    """Levels of many scores: see :func:`level_of`."""
    levels = np.zeros(len(scores), np.int8)
    if strongest > 0:
        for threshold in THRESHOLDS:
            levels += np.abs(scores) >= threshold * strongest
    return np.where(scores < 0, -levels, levels)


def wrap_shades(shades: Iterable[Shade], width: int) -> list[list[Shade]]:
    """Lines of at most ``width`` cells, broken between words and at line feeds."""
    return list(wrapped(shades, width))


def wrapped(shades: Iterable[Shade], width: int) -> Iterator[list[Shade]]:
    """The same line by line: no more of ``shades`` is looked at than a line needs."""
    line: list[Shade] = []
    used = 0
    for word in _words(shades):
        text = "".join(shade.text for shade in word)
        if text == "\n" or (used and used + cell_len(text.rstrip(" ")) > width):
            yield _merged(line)
            line, used = [], 0
        if text == "\n":
            continue
        for shade in word:
            for part in _fitting(shade, used, width):
                if part is None:
                    yield _merged(line)
                    line, used = [], 0
                else:
                    line.append(part)
                    used += cell_len(part.text)
    yield _merged(line)


def line_text(line: Sequence[Shade]) -> Text:
    """One line in colour."""
    text = Text(no_wrap=True)
    for shade in line:
        text.append(shade.text, shade.style)
    return text


def mark_text(line: Sequence[Shade]) -> str:
    """The marks that stand below a line where there is no colour."""
    return "".join(_MARKS[shade.level] * cell_len(shade.text) for shade in line).rstrip()


def legend(strongest: float, colour: bool, width: int) -> Iterator[Text]:
    """What the levels mean, in one line, or two where it is narrow."""
    sign = Text()
    if colour:
        labels = ((-3, " helpful "), (-2, " ■ "), (-1, "■ "), (0, "·"), (1, " ■"), (2, " ■ "))
        for level, label in (*labels, (3, " harmful ")):
            sign.append(label, _STYLES[level])
    else:
        sign.append("== -- helpful   ++ ## harmful")
    shares = ", ".join(share_text(share) for share in THRESHOLDS if colour or share > THRESHOLDS[0])
    scale = f"from {shares} of the strongest token, {score_text(strongest)[1:]}"
    if sign.cell_len + 2 + cell_len(scale) <= width:
        yield sign.append(f"  {scale}", "dim")
        return
    yield sign
    yield Text(scale, "dim")


def _words(shades: Iterable[Shade]) -> Iterator[list[Shade]]:
    """Stretches that are kept on one line: up to and with the space behind a word."""
    word: list[Shade] = []
    for shade in shades:
        for part in _PARTS.findall(safe_text(shade.text, keep_newlines=True)):
            if part == "\n":
                if word:
                    yield word
                word = []
                yield [Shade("\n")]
                continue
            word.append(Shade(part, shade.level, shade.learned))
            # Some scripts, and some data, know no spaces.
            if part.endswith(" ") or len(word) >= _LONGEST_WORD:
                yield word
                word = []
    if word:
        yield word


def _fitting(shade: Shade, used: int, width: int) -> Iterator[Shade | None]:
    """What of a stretch fits on the line, None for a new line, what fits on that, and so on."""
    if used + cell_len(shade.text) <= width:
        yield shade
        return
    fits = ""
    for character in shade.text:
        cells = cell_len(character)
        if used + cells > width:
            if character == " ":
                continue
            if fits:
                yield Shade(fits, shade.level, shade.learned)
            yield None
            fits, used = "", 0
        fits += character
        used += cells
    if fits:
        yield Shade(fits, shade.level, shade.learned)


def _merged(line: Sequence[Shade]) -> list[Shade]:
    merged: list[Shade] = []
    for shade in line:
        last = merged[-1] if merged else None
        if last is not None and (last.level, last.learned) == (shade.level, shade.learned):
            merged[-1] = Shade(last.text + shade.text, shade.level, shade.learned)
        else:
            merged.append(shade)
    return merged
