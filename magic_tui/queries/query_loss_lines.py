"""A query's own tokens shaded by their losses, the hardest of them named."""

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from engine.runs.safe_text import one_line
from magic_tui.queries.candidates import TextLosses
from magic_tui.queries.loss_lines import (
    MARKS,
    NOT_PREDICTED,
    STYLES,
    Run,
    legend,
    loss_level,
    wrap_tokens,
)
from magic_tui.text.cells import fit, wrap
from magic_tui.text.numbers import counted, loss_text

_INDENT = "  "
_MOST_LINES = 12
_HARDEST = 5
_LONGEST_NAME = 18


def loss_lines(
    losses: TextLosses, place: tuple[int, int], width: int, colour: bool
) -> Iterator[Text]:
    """The tokens by their losses under the trained model.

    Args:
        losses: those of one of the query's texts.
        place: which text it is, from 0, and how many there are.
        width: cells of a line.
        colour: whether colours may carry meaning; signs below the tokens do it otherwise.
    """
    room = max(1, width - len(_INDENT))
    yield Text()
    yield _head(losses, place, width, colour)
    lines = wrap_tokens([token.text for token in losses.tokens], room)
    for line in lines[:_MOST_LINES]:
        yield _shaded(losses, line)
        if not colour:
            yield _marked(losses, line)
    if len(lines) > _MOST_LINES:
        rest = counted(len(lines) - _MOST_LINES, "more line")
        yield Text(fit(f"{_INDENT}… {rest}; all of it with 3, then t", width), "dim")
    yield Text(fit(f"{_INDENT}hardest: {_hardest(losses)}", width), "dim")


def note_lines(note: str, width: int) -> list[Text]:
    """A sentence in the place of the tokens."""
    return [Text(), *(Text(_INDENT + line, "dim") for line in wrap(one_line(note), width - 2, 4))]


def _head(losses: TextLosses, place: tuple[int, int], width: int, colour: bool) -> Text:
    text, texts = place
    of = "its own tokens by loss"
    if texts > 1:
        of = f"the tokens of text {text + 1} of {texts} (l: next)"
    head = Text(fit(f"{of}, mean {loss_text(losses.loss)}", width), "bold", no_wrap=True)
    shades = Text("   ").append_text(legend(losses.hardest, colour))
    return head.append_text(shades) if head.cell_len + shades.cell_len <= width else head


def _shaded(losses: TextLosses, line: Sequence[Run]) -> Text:
    text = Text(_INDENT, no_wrap=True)
    for index, part in line:
        loss = losses.tokens[index].loss
        style = NOT_PREDICTED if loss is None else STYLES[loss_level(loss, losses.hardest)]
        text.append(part, style)
    return text


def _marked(losses: TextLosses, line: Sequence[Run]) -> Text:
    text = Text(_INDENT, no_wrap=True)
    for index, part in line:
        mark = MARKS[loss_level(losses.tokens[index].loss, losses.hardest)]
        text.append(mark * cell_len(part))
    return text


def _hardest(losses: TextLosses) -> str:
    known = [(token.loss, token.text) for token in losses.tokens if token.loss is not None]
    known.sort(key=lambda pair: -pair[0])
    named = (
        f"{fit(one_line(repr(text)), _LONGEST_NAME)} {loss_text(loss)}"
        for loss, text in known[:_HARDEST]
    )
    return ", ".join(named) or "nothing predicts any of them"
