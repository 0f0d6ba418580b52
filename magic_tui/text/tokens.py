"""Shaded tokens: seven levels of effect, or four levels of loss.

Effect runs from helpful (blue) over none to harmful (orange); loss runs from none to high (violet).
Levels are relative to a scale, usually the largest value shown. Without colour a line of marks
follows each line of text: ``= -`` under helpful tokens, ``+ #`` under harmful ones.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from engine.runs.safe_text import safe_text
from magic_tui.text.numbers import score_text, share_text

THRESHOLDS = (0.1, 0.3, 0.6)
"""Levels 1, 2 and 3 of effect begin at these shares of the scale."""
LOSS_THRESHOLDS = (0.25, 0.5, 0.75)
"""Levels 1, 2 and 3 of loss begin at these shares of the scale."""
STRONG = 2
"""The lowest level that counts as strong."""

_PARTS = re.compile(r"\n|[^ \n]* |[^ \n]+")
_LONGEST_WORD = 256
"""A longer word, in pieces, may be broken between lines."""


@dataclass(frozen=True)
class Palette:
    """How each level looks, with and without colour."""

    styles: Mapping[int, Style]
    marks: Mapping[int, str]
    without_loss: Style
    """Style of tokens on which no loss is computed."""


EFFECT = Palette(
    {
        -3: Style(color="color(16)", bgcolor="color(75)"),
        -2: Style(color="color(33)", bold=True),
        -1: Style(color="color(67)"),
        0: Style(),
        1: Style(color="color(137)"),
        2: Style(color="color(172)", bold=True),
        3: Style(color="color(16)", bgcolor="color(208)"),
    },
    {-3: "=", -2: "-", -1: " ", 0: " ", 1: " ", 2: "+", 3: "#"},
    Style(dim=True),
)
LOSS = Palette(
    {
        0: Style(),
        1: Style(color="color(140)"),
        2: Style(color="color(141)", bold=True),
        3: Style(color="color(16)", bgcolor="color(141)"),
    },
    {0: " ", 1: ".", 2: ":", 3: "#"},
    Style(dim=True),
)


@dataclass(frozen=True)
class Shade:
    """A stretch of text with its level; ``learned`` is whether a loss is computed on it."""

    text: str
    level: int = 0
    learned: bool = True


@dataclass(frozen=True)
class Shading:
    """Levels of all pieces of a text."""

    levels: NDArray[np.int8]
    """(piece,)"""
    learned: NDArray[np.bool_]
    """(piece,) Whether a loss is computed on the piece."""
    palette: Palette = EFFECT

    def shade(self, piece: int, text: str) -> Shade:
        """A stretch of a piece's text."""
        return Shade(text, int(self.levels[piece]), bool(self.learned[piece]))


def unshaded(pieces: int) -> Shading:
    """Level 0 for all pieces."""
    return Shading(np.zeros(pieces, np.int8), np.ones(pieces, np.bool_))


def level_of(value: float, scale: float, thresholds: Sequence[float] = THRESHOLDS) -> int:
    """Level -3 … 3 of a value; 0 for NaN or without a positive scale."""
    return int(levels_of(np.array([value], np.float64), scale, thresholds)[0])


def levels_of(
    values: NDArray[np.float64], scale: float, thresholds: Sequence[float] = THRESHOLDS
) -> NDArray[np.int8]:
    """(piece,) Levels of many values; see :func:`level_of`."""
    levels = np.zeros(len(values), np.int8)
    if scale > 0:
        for threshold in thresholds:
            levels += np.abs(values) >= threshold * scale
    return np.where(values < 0, -levels, levels)


def wrap_shades(shades: Iterable[Shade], width: int) -> Iterator[list[Shade]]:
    """Lines of at most ``width`` cells, broken between words and at line feeds.

    Lazy: a line consumes no more of ``shades`` than it needs.
    """
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


def line_text(line: Sequence[Shade], palette: Palette = EFFECT) -> Text:
    """One line in colour."""
    text = Text(no_wrap=True)
    for shade in line:
        text.append(shade.text, shade_style(shade, palette))
    return text


def shade_style(shade: Shade, palette: Palette) -> Style:
    """The style of a shade."""
    return palette.styles[shade.level] if shade.learned else palette.without_loss


def mark_text(line: Sequence[Shade], palette: Palette = EFFECT) -> str:
    """The marks below a line, for terminals without colour."""
    return "".join(palette.marks[shade.level] * cell_len(shade.text) for shade in line).rstrip()


def legend(strongest: float, colour: bool, width: int) -> Iterator[Text]:
    """The levels of effect in one line, or in two lines if it is narrow."""
    sign = Text()
    if colour:
        labels = ((-3, " helpful "), (-2, " ■ "), (-1, "■ "), (0, "·"), (1, " ■"), (2, " ■ "))
        for level, label in (*labels, (3, " harmful ")):
            sign.append(label, EFFECT.styles[level])
    else:
        sign.append("== -- helpful   ++ ## harmful")
    shares = ", ".join(share_text(share) for share in THRESHOLDS if colour or share > THRESHOLDS[0])
    scale = f"from {shares} of the strongest token, {score_text(strongest)[1:]}"
    if sign.cell_len + 2 + cell_len(scale) <= width:
        yield sign.append(f"  {scale}", "dim")
        return
    yield sign
    yield Text(scale, "dim")


def loss_legend(hardest: float, colour: bool) -> Text:
    """The levels of loss."""
    line = Text("shaded from", "dim", no_wrap=True)
    for level, share in enumerate(LOSS_THRESHOLDS, start=1):
        value = f"{share * hardest:.1f}"
        line.append(" ")
        label = f" {value} " if colour else f"{LOSS.marks[level]} {value}"
        line.append(label, LOSS.styles[level])
    return line


def _words(shades: Iterable[Shade]) -> Iterator[list[Shade]]:
    """Words with the space after them; each stays on one line."""
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
            # Some scripts and some data have no spaces.
            if part.endswith(" ") or len(word) >= _LONGEST_WORD:
                yield word
                word = []
    if word:
        yield word


def _fitting(shade: Shade, used: int, width: int) -> Iterator[Shade | None]:
    """The parts of a stretch that fit on successive lines, separated by None."""
    if used + cell_len(shade.text) <= width:
        yield shade
        return
    part = ""
    for character in shade.text:
        cells = cell_len(character)
        if used + cells > width:
            if character == " ":
                continue
            if part:
                yield Shade(part, shade.level, shade.learned)
            yield None
            part, used = "", 0
        part += character
        used += cells
    if part:
        yield Shade(part, shade.level, shade.learned)


def _merged(line: Sequence[Shade]) -> list[Shade]:
    """Join neighbours of the same level."""
    merged: list[Shade] = []
    for shade in line:
        last = merged[-1] if merged else None
        if last is not None and (last.level, last.learned) == (shade.level, shade.learned):
            merged[-1] = Shade(last.text + shade.text, shade.level, shade.learned)
        else:
            merged.append(shade)
    return merged
