"""A document with its tokens coloured by their effect on a query, as lines of text."""

from collections.abc import Iterator

from rich.cells import cell_len
from rich.text import Text

from engine.runs.safe_text import safe_text
from engine.scores.document import DocumentScores, Piece
from magic_tui.explore.top_lines import HARMFUL, HELPFUL, query_lines
from magic_tui.text.bars import CENTRE, signed_bar
from magic_tui.text.cells import fit, wrap
from magic_tui.text.numbers import count_text, counted, score_text
from magic_tui.text.tokens import (
    Colours,
    Shade,
    legend,
    levels_of,
    line_text,
    mark_text,
    wrap_shades,
)

STRONGEST = 10
_CONTEXT = 40
_STEP_LINES = 2
_MARGIN = "  "


def show_lines(shown: DocumentScores, width: int, colour: bool) -> Iterator[Text]:
    """Header, coloured text, legend and the strongest tokens with their exact scores."""
    yield from query_lines(shown.query, shown.queries, width)
    yield Text()
    yield from _document_head(shown, width)
    yield Text()
    for line in wrap_shades(shades(shown), width - 2 * len(_MARGIN)):
        yield Text(_MARGIN).append_text(line_text(line) if colour else plain_line(line))
        marks = "" if colour else mark_text(line)
        if marks:
            yield Text(_MARGIN + marks)
    yield Text()
    if shown.scores is None:
        yield Text(no_token_scores(shown), "dim")
        return
    yield from legend(shown.strongest, colour, width)
    if not colours(shown).learned.all():
        yield Text("dim: no loss was taken on these tokens", "dim")
    yield Text()
    yield from strongest_lines(shown, width)


def size_text(shown: DocumentScores) -> str:
    """How long a document is."""
    if shown.tokens.whole:
        return "one example"
    cut = f" ({count_text(shown.tokens.cut)} more cut off)" if shown.tokens.cut else ""
    return counted(len(shown.tokens.ids), "token") + cut


def no_token_scores(shown: DocumentScores) -> str:
    """Why there are none."""
    if shown.tokens.whole:
        return "the document is one example: it has one score"
    return "no scores of tokens: this attribution keeps those of documents alone"


def shades(shown: DocumentScores, scale: float | None = None) -> list[Shade]:
    """The document's text, piece by piece, with levels relative to its strongest piece.

    Args:
        shown: the document.
        scale: a |score| that the levels are relative to instead.
    """
    found = colours(shown, scale)
    return [found.shade(index, piece.text) for index, piece in enumerate(shown.marked_pieces)]


def colours(shown: DocumentScores, scale: float | None = None) -> Colours:
    """How to show each piece of a document; see :func:`shades`."""
    learned = shown.learned.copy()
    # Nothing follows the last token, so it never has a loss; that needs no showing.
    learned[-1:] = True
    strongest = shown.strongest if scale is None else scale
    return Colours(levels_of(shown.piece_scores, strongest), learned)


def plain_line(line: list[Shade]) -> Text:
    """A line without colour: its strongest tokens bold."""
    text = Text(no_wrap=True)
    for shade in line:
        text.append(shade.text, "bold" if abs(shade.level) == 3 else "")
    return text


def _document_head(shown: DocumentScores, width: int) -> Iterator[Text]:
    head = Text().append(f"document {shown.document}", "bold")
    head.append(f" of {count_text(shown.documents)}", "dim")
    head.append(f"  {score_text(shown.score)}", HELPFUL if shown.score < 0 else HARMFUL)
    if shown.score:
        direction = "helpful" if shown.score < 0 else "harmful"
        head.append(f"  {ordinal(shown.rank)} most {direction}")
    head.truncate(width, overflow="ellipsis")
    yield head
    steps = shown.tokens.steps
    listed = ", ".join(str(step) for step in steps)
    seen = f"{size_text(shown)}, trained on at {'step' if len(steps) == 1 else 'steps'} {listed}"
    for line in wrap(seen, width, _STEP_LINES):
        yield Text(line, "dim")


def strongest_lines(shown: DocumentScores, width: int) -> Iterator[Text]:
    """A head, and a line for each of the strongest tokens: its score, and where it stands."""
    indices = shown.strongest_pieces(STRONGEST)
    if not indices:
        yield Text("every token of this document has the score 0 for this query")
        return
    note = fit("  a token's score is that of predicting what follows it", max(0, width - 16))
    yield Text().append("strongest tokens", "bold").append(note, "dim")
    half = max(3, min(12, (width - 50) // 5))
    place = len(str(len(shown.tokens.ids) - 1))
    for index in indices:
        piece = shown.pieces[index]
        score = float(shown.piece_scores[index])
        left, right = signed_bar(score, shown.strongest, half)
        line = Text(f"  {piece.start:>{place}}  ", no_wrap=True)
        line.append(left, HELPFUL).append(CENTRE, "dim").append(right, HARMFUL)
        line.append(f" {score_text(score)}  ")
        yield line.append(in_context(shown, index, width - line.cell_len))


def in_context(shown: DocumentScores, index: int, room: int) -> Text:
    """A token between what stands before and after it; tokens of several lines stand aligned."""
    before = "".join(_visible(piece) for piece in shown.pieces[max(0, index - _CONTEXT) : index])
    after = "".join(_visible(piece) for piece in shown.pieces[index + 1 : index + _CONTEXT])
    text = Text().append(_last_cells(before, room // 3), "dim")
    token = fit(_visible(shown.pieces[index]), max(1, room // 2))
    text.append(token, "bold underline")
    return text.append(fit(after, max(0, room - text.cell_len)), "dim")


def _last_cells(text: str, width: int) -> str:
    """The end of a text in exactly ``width`` cells."""
    while cell_len(text) > width:
        text = text[1:]
    return " " * (width - cell_len(text)) + text


def _visible(piece: Piece) -> str:
    return safe_text(piece.text.replace("\n", "⏎"))


def ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``3rd``, ``11th``; the first is left out: ``most helpful``."""
    if number == 1:
        return "the"
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10)
    return f"{count_text(number)}{ending or 'th'}"
