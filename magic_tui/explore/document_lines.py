"""What stands around a document's text: its place, the token under the cursor, the scale."""

import csv
import io

from rich.text import Text

from engine.runs.safe_text import safe_text
from engine.scores.document import DocumentScores
from magic_tui.explore import show_lines as show
from magic_tui.explore.export import text_cell
from magic_tui.explore.score_browser import SCALE_DOCUMENTS
from magic_tui.explore.show_lines import no_token_scores, ordinal, show_lines, size_text
from magic_tui.explore.top_lines import HARMFUL, HELPFUL
from magic_tui.text.cells import fit, join_that_fit
from magic_tui.text.numbers import count_text, score_text, share_text
from magic_tui.text.tokens import THRESHOLDS, legend

_COPY_WIDTH = 100


def document_line(shown: DocumentScores, width: int) -> Text:
    """Which document it is, its score, its place, how long it is and when it was seen."""
    line = Text(no_wrap=True).append(f"document {shown.document}", "bold")
    line.append(f" of {count_text(shown.documents)}", "dim")
    line.append(f"  {score_text(shown.score)}", HELPFUL if shown.score < 0 else HARMFUL)
    if shown.score:
        direction = "helpful" if shown.score < 0 else "harmful"
        line.append(f"  {ordinal(shown.rank)} most {direction}")
    steps = shown.tokens.steps
    listed = ", ".join(str(step) for step in steps[:8]) + (" …" if len(steps) > 8 else "")
    rest = f"  {size_text(shown)}, {'step' if len(steps) == 1 else 'steps'} {listed}"
    return line.append(fit(rest, max(0, width - line.cell_len)), "dim")


def legend_line(shown: DocumentScores, scale: float | None, colour: bool, width: int) -> Text:
    """What the colours mean, and relative to what."""
    if shown.scores is None:
        return Text(fit(no_token_scores(shown), width), "dim")
    line = next(legend(1.0, colour, 0))
    strongest = shown.strongest if scale is None else scale
    parts = [
        "  scale: "
        + ("this document" if scale is None else f"the {2 * SCALE_DOCUMENTS} strongest documents"),
        f"full from {THRESHOLDS[-1] * strongest:.1e}",
        f"steps at {', '.join(share_text(share) for share in THRESHOLDS)} of {strongest:.2e}",
    ]
    return line.append(join_that_fit(parts, max(0, width - line.cell_len), " · "), "dim")


def strongest_lines(shown: DocumentScores, width: int, count: int) -> list[Text]:
    """The strongest tokens with their scores, as ``magic show`` lists them."""
    return list(show.strongest_lines(shown, width))[: count + 1] if count > 0 else []


def token_line(shown: DocumentScores, index: int, width: int) -> Text:
    """The token under the cursor with its exact score and where it stands."""
    piece = shown.pieces[index]
    if shown.tokens.whole:
        return Text(fit(f"{safe_text(piece.text)}, used as a whole", width), "dim")
    text = fit(safe_text(piece.text.replace("\n", "⏎")), max(4, width // 4))
    line = Text(no_wrap=True).append(f"token {piece.start}", "bold").append(f" “{text}”")
    if piece.stop - piece.start > 1:
        line.append(f" (and {piece.stop - piece.start - 1} more)", "dim")
    if shown.scores is None:
        return line
    score = float(shown.piece_scores[index])
    line.append(f"  {score:+.6e}", HELPFUL if score < 0 else HARMFUL if score > 0 else "")
    return line.append(_place(shown, index, max(0, width - line.cell_len)), "dim")


def _place(shown: DocumentScores, index: int, width: int) -> str:
    piece, tokens = shown.pieces[index], shown.tokens
    if not tokens.targets[piece.start : piece.stop].any():
        return fit("  no loss was taken here", width)
    total = float(abs(shown.scores).sum())
    share = share_text(abs(float(shown.piece_scores[index])) / total) if total > 0 else "–"
    row, position = int(tokens.rows[piece.start]), int(tokens.positions[piece.start])
    parts = [
        f"{share} of its |influence|",
        f"row {row}, position {position}",
        "for predicting what follows it",
    ]
    return "  " + join_that_fit(parts, width - 2, " · ")


def plain_document(shown: DocumentScores, width: int = _COPY_WIDTH) -> str:
    """The document as ``magic show`` prints it without colour."""
    lines = show_lines(shown, width, False)
    return "\n".join(line.plain.rstrip() for line in lines) + "\n"


def tokens_csv(shown: DocumentScores) -> str:
    """Every token with its place and score, as a table that a spreadsheet opens."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["token", "row", "position", "id", "score", "text"])
    tokens = shown.tokens
    texts = {piece.stop - 1: piece.text for piece in shown.pieces}
    for index, token in enumerate([] if tokens.whole else tokens.ids.tolist()):
        score = "" if shown.scores is None else repr(float(shown.scores[index]))
        text = text_cell(safe_text(texts.get(index, "")))
        place = (index, int(tokens.rows[index]), int(tokens.positions[index]))
        writer.writerow([*place, token, score, text])
    return out.getvalue()
