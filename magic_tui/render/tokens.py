"""Tokens coloured by their scores: seven levels from helpful (blue) over none to harmful (orange).

Levels are relative to the strongest token shown. Without colour each line of text is followed by a
line of marks: ``= -`` under helpful tokens and ``+ #`` under harmful ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from magic_tui.render.numbers import score_text, share_text
from magic_tui.safe_text import safe_text

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


def wrap_shades(shades: Sequence[Shade], width: int) -> list[list[Shade]]:
    """Lines of at most ``width`` cells, broken between words and at line feeds."""
    lines: list[list[Shade]] = [[]]
    used = 0
    for word in _words(shades):
        text = "".join(shade.text for shade in word)
        if text == "\n":
            lines.append([])
            used = 0
            continue
        if used and used + cell_len(text.rstrip(" ")) > width:
            lines.append([])
            used = 0
        for shade in word:
            used = _place(lines, shade, used, width)
    return [_merged(line) for line in lines]


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


def _words(shades: Sequence[Shade]) -> Iterator[list[Shade]]:
    """Stretches that are kept on one line: up to and with the space behind a word."""
    word: list[Shade] = []
    for shade in shades:
        for part in _parts(safe_text(shade.text, keep_newlines=True)):
            if part == "\n":
                if word:
                    yield word
                word = []
                yield [Shade("\n")]
                continue
            word.append(Shade(part, shade.level, shade.learned))
            if part.endswith(" "):
                yield word
                word = []
    if word:
        yield word


def _parts(text: str) -> Iterator[str]:
    start = 0
    for index, character in enumerate(text):
        if character == "\n":
            if start < index:
                yield text[start:index]
            yield "\n"
            start = index + 1
        elif character == " ":
            yield text[start : index + 1]
            start = index + 1
    if start < len(text):
        yield text[start:]


def _place(lines: list[list[Shade]], shade: Shade, used: int, width: int) -> int:
    """Append a part to the last line, going on in a new one where it is full."""
    text = shade.text
    for character in text:
        cells = cell_len(character)
        if used + cells > width:
            if character == " ":
                continue
            lines.append([])
            used = 0
        lines[-1].append(Shade(character, shade.level, shade.learned))
        used += cells
    return used


def _merged(line: Sequence[Shade]) -> list[Shade]:
    merged: list[Shade] = []
    for shade in line:
        last = merged[-1] if merged else None
        if last is not None and (last.level, last.learned) == (shade.level, shade.learned):
            merged[-1] = Shade(last.text + shade.text, shade.level, shade.learned)
        else:
            merged.append(shade)
    return merged
