"""A document whose tokens are shaded by their effect on a query, as lines of text.

``magic show`` prints :func:`show_lines`; the Document screen shows the parts around the text.
"""

import csv
import io
from collections.abc import Iterator

from rich.cells import cell_len
from rich.text import Text

from engine.runs.safe_text import safe_text
from engine.scores.document import DocumentScores, Piece
from magic_tui.explore.export import text_cell
from magic_tui.explore.top_lines import query_lines
from magic_tui.text.bars import CENTRE, HARMFUL, HELPFUL, signed_bar
from magic_tui.text.cells import fit, join_that_fit, wrap
from magic_tui.text.numbers import count_text, counted, score_text, share_text
from magic_tui.text.tokens import (
    THRESHOLDS,
    Shade,
    Shading,
    legend,
    levels_of,
    line_text,
    mark_text,
    wrap_shades,
)

STRONGEST = 10
"""Tokens in the list of the strongest."""
SCALE_DOCUMENTS = 10
"""The common scale comes from this many helpful and as many harmful documents."""
_CONTEXT = 40
_STEP_LINES = 2
_MARGIN = "  "
_COPY_WIDTH = 100


def show_lines(document: DocumentScores, width: int, colour: bool) -> Iterator[Text]:
    """Query, document, shaded text, legend, and the strongest tokens with their exact scores."""
    yield from query_lines(document.query, document.queries, width)
    yield Text()
    title = _title(document)
    title.truncate(width, overflow="ellipsis")
    yield title
    seen = f"{size_text(document)}, trained on at {steps_text(document)}"
    for line in wrap(seen, width, _STEP_LINES):
        yield Text(line, "dim")
    yield Text()
    shading = shading_of(document)
    texts = enumerate(document.marked_pieces)
    shades = (shading.shade(index, piece.text) for index, piece in texts)
    for row in wrap_shades(shades, width - 2 * len(_MARGIN)):
        yield Text(_MARGIN).append_text(line_text(row) if colour else _plain_line(row))
        marks = "" if colour else mark_text(row)
        if marks:
            yield Text(_MARGIN + marks)
    yield Text()
    if document.scores is None:
        yield Text(no_token_scores(document), "dim")
        return
    yield from legend(document.strongest, colour, width)
    if not shading.learned.all():
        yield Text("dim: no loss is computed on these tokens", "dim")
    yield Text()
    yield from strongest_lines(document, width)


def shading_of(document: DocumentScores, scale: float | None = None) -> Shading:
    """Levels of the document's pieces.

    Args:
        document: the document.
        scale: the |score| that levels are relative to; None for the document's strongest piece.
    """
    learned = document.learned.copy()
    # The last token never has a loss because nothing follows it; do not dim it.
    learned[-1:] = True
    scale = document.strongest if scale is None else scale
    return Shading(levels_of(document.piece_scores, scale), learned)


def size_text(document: DocumentScores) -> str:
    """The length of a document."""
    if document.tokens.whole:
        return "one example"
    cut = f" ({count_text(document.tokens.cut)} more cut off)" if document.tokens.cut else ""
    return counted(len(document.tokens.ids), "token") + cut


def steps_text(document: DocumentScores, most: int | None = None) -> str:
    """The steps that trained on a document: ``steps 3, 17 …``."""
    steps = document.tokens.steps
    listed = ", ".join(str(step) for step in steps[:most])
    cut = " …" if most is not None and len(steps) > most else ""
    return f"{'step' if len(steps) == 1 else 'steps'} {listed}{cut}"


def no_token_scores(document: DocumentScores) -> str:
    """Why a document has no token scores."""
    if document.tokens.whole:
        return "the document is one example and has one score"
    return "no token scores: this attribution stores document scores only"


def ordinal(number: int) -> str:
    """``2nd``, ``3rd``, ``11th``; ``the`` for 1, as in ``the most helpful``."""
    if number == 1:
        return "the"
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10)
    return f"{count_text(number)}{ending or 'th'}"


def strongest_lines(document: DocumentScores, width: int, most: int = STRONGEST) -> Iterator[Text]:
    """A title, and up to ``most`` strongest tokens with score and context."""
    indices = document.strongest_pieces(STRONGEST)[:most]
    if not indices:
        yield Text("every token of this document has the score 0 for this query")
        return
    note = fit("  a token's score is that of predicting what follows it", max(0, width - 16))
    yield Text().append("strongest tokens", "bold").append(note, "dim")
    half = max(3, min(12, (width - 50) // 5))
    digits = len(str(len(document.tokens.ids) - 1))
    for index in indices:
        piece = document.pieces[index]
        score = float(document.piece_scores[index])
        left, right = signed_bar(score, document.strongest, half)
        line = Text(f"  {piece.start:>{digits}}  ", no_wrap=True)
        line.append(left, HELPFUL).append(CENTRE, "dim").append(right, HARMFUL)
        line.append(f" {score_text(score)}  ")
        yield line.append(in_context(document, index, width - line.cell_len))


def in_context(document: DocumentScores, index: int, room: int) -> Text:
    """A token with the text before and after it; tokens of successive lines are aligned."""
    pieces = document.pieces
    before = "".join(_visible(piece) for piece in pieces[max(0, index - _CONTEXT) : index])
    after = "".join(_visible(piece) for piece in pieces[index + 1 : index + _CONTEXT])
    text = Text().append(_last_cells(before, room // 3), "dim")
    token = fit(_visible(pieces[index]), max(1, room // 2))
    text.append(token, "bold underline")
    return text.append(fit(after, max(0, room - text.cell_len)), "dim")


def document_line(document: DocumentScores, width: int) -> Text:
    """A document in one line: score, rank, length, steps."""
    line = _title(document)
    rest = f"  {size_text(document)}, {steps_text(document, 8)}"
    return line.append(fit(rest, max(0, width - line.cell_len)), "dim")


def legend_line(document: DocumentScores, scale: float | None, colour: bool, width: int) -> Text:
    """The legend of the shading with its scale."""
    if document.scores is None:
        return Text(fit(no_token_scores(document), width), "dim")
    line = next(legend(1.0, colour, 0))
    name = f"the {2 * SCALE_DOCUMENTS} strongest documents"
    strongest = document.strongest if scale is None else scale
    parts = [
        f"  scale: {'this document' if scale is None else name}",
        f"full from {THRESHOLDS[-1] * strongest:.1e}",
        f"steps at {', '.join(share_text(share) for share in THRESHOLDS)} of {strongest:.2e}",
    ]
    return line.append(join_that_fit(parts, max(0, width - line.cell_len), " · "), "dim")


def token_line(document: DocumentScores, index: int, width: int) -> Text:
    """A token's exact score and position."""
    piece = document.pieces[index]
    if document.tokens.whole:
        return Text(fit(f"{safe_text(piece.text)}, used as a whole", width), "dim")
    text = fit(safe_text(piece.text.replace("\n", "⏎")), max(4, width // 4))
    line = Text(no_wrap=True).append(f"token {piece.start}", "bold").append(f" “{text}”")
    if piece.stop - piece.start > 1:
        line.append(f" (and {piece.stop - piece.start - 1} more)", "dim")
    if document.scores is None:
        return line
    score = float(document.piece_scores[index])
    line.append(f"  {score:+.6e}", HELPFUL if score < 0 else HARMFUL if score > 0 else "")
    return line.append(_position(document, index, max(0, width - line.cell_len)), "dim")


def plain_document(document: DocumentScores, width: int = _COPY_WIDTH) -> str:
    """The document as ``magic show`` prints it without colour."""
    lines = show_lines(document, width, False)
    return "\n".join(line.plain.rstrip() for line in lines) + "\n"


def tokens_csv(document: DocumentScores) -> str:
    """Position, score and text of every token, as CSV that is safe in a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["token", "row", "position", "id", "score", "text"])
    tokens = document.tokens
    texts = {piece.stop - 1: piece.text for piece in document.pieces}
    for index, token in enumerate([] if tokens.whole else tokens.ids.tolist()):
        score = "" if document.scores is None else repr(float(document.scores[index]))
        text = text_cell(safe_text(texts.get(index, "")))
        position = (index, int(tokens.rows[index]), int(tokens.positions[index]))
        writer.writerow([*position, token, score, text])
    return out.getvalue()


def _title(document: DocumentScores) -> Text:
    line = Text(no_wrap=True).append(f"document {document.document}", "bold")
    line.append(f" of {count_text(document.documents)}", "dim")
    line.append(f"  {score_text(document.score)}", HELPFUL if document.score < 0 else HARMFUL)
    if document.score:
        direction = "helpful" if document.score < 0 else "harmful"
        line.append(f"  {ordinal(document.rank)} most {direction}")
    return line


def _position(document: DocumentScores, index: int, width: int) -> str:
    piece, tokens = document.pieces[index], document.tokens
    if not tokens.targets[piece.start : piece.stop].any():
        return fit("  no loss is computed here", width)
    total = float(abs(document.scores).sum())
    share = share_text(abs(float(document.piece_scores[index])) / total) if total > 0 else "–"
    row, position = int(tokens.rows[piece.start]), int(tokens.positions[piece.start])
    parts = [
        f"{share} of its |influence|",
        f"row {row}, position {position}",
        "for predicting what follows it",
    ]
    return "  " + join_that_fit(parts, width - 2, " · ")


def _plain_line(line: list[Shade]) -> Text:
    """A line without colour; its strongest tokens are bold."""
    text = Text(no_wrap=True)
    for shade in line:
        text.append(shade.text, "bold" if abs(shade.level) == 3 else "")
    return text


def _last_cells(text: str, width: int) -> str:
    """The end of a text in exactly ``width`` cells."""
    while cell_len(text) > width:
        text = text[1:]
    return " " * (width - cell_len(text)) + text


def _visible(piece: Piece) -> str:
    return safe_text(piece.text.replace("\n", "⏎"))
