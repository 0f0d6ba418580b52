"""What stands above and below a ranked list: the query, how much the first carry, a histogram."""

from collections.abc import Iterator

import numpy as np
from rich.text import Text

from engine.runs.safe_text import one_line
from engine.scores.attribution import Query
from engine.scores.document import DocumentScores
from engine.scores.ranking import AGGREGATION_NAMES, Aggregation, Histogram, Ranking
from magic_tui.explore.show_lines import in_context, ordinal
from magic_tui.explore.top_lines import HARMFUL, HELPFUL
from magic_tui.text.cells import fit, join_that_fit, pad
from magic_tui.text.numbers import count_text, counted, in_all, loss_text, score_text, share_text

PAGED = 500
"""How many documents go to a pager."""
_BLOCKS = " ▁▂▃▄▅▆▇█"
_LANDMARKS = (10, 50, 500, 5_000, 50_000)


def query_line(query: Query, queries: int, width: int) -> Text:
    """Which query it is, its loss before and after training, and its text."""
    line = Text(no_wrap=True).append(f"query {query.index}", "bold")
    line.append(in_all(queries), "dim")
    name = "loss" if query.reduction is None else query.reduction
    line.append(f"  {name} {loss_text(query.before)} → {loss_text(query.after)}  ")
    text = one_line(query.documents[0].text[:1000])
    return line.append(fit(text, max(0, width - line.cell_len)), "italic")


def listed_line(ranking: Ranking, aggregation: Aggregation, found: str | None, width: int) -> Text:
    """What is listed: which sign, by what figure, of how many documents."""
    helpful, harmful = ranking.sign_counts
    names = {"all": "all", "helpful": "helpful only", "harmful": "harmful only"}
    whole = counted(len(ranking.values), "document")
    how = f"{names[ranking.direction]}, by {AGGREGATION_NAMES[aggregation]}"
    parts = [f"{whole}: {count_text(helpful)} help, {count_text(harmful)} harm", how]
    if found is not None:
        parts = [f"{found}: {counted(len(ranking), 'document')}", how, parts[0]]
    return Text(fit(" · ".join(parts), width), no_wrap=True)


def carried_line(ranking: Ranking, cursor: int, width: int) -> Text:
    """How much of the total |influence| the first documents carry, and those to the cursor."""
    marks = [mark for mark in _LANDMARKS if mark < len(ranking)]
    here = f"to the cursor {share_text(ranking.cumulative_share(cursor + 1))}"
    parts = [
        f"top {count_text(mark)} = {share_text(ranking.cumulative_share(mark))}" for mark in marks
    ]
    line = join_that_fit(["share of all |influence|:", here, *parts], width)
    return Text(line, "dim", no_wrap=True)


def histogram_lines(histogram: Histogram, width: int, height: int) -> Iterator[Text]:
    """How many documents have which score: bars of the logarithm of their number."""
    edge = float(histogram.edges[-1])
    low, high = f"{score_text(-edge)} ", f" {score_text(edge)}"
    sizes = np.log1p(histogram.counts.astype(np.float64))
    eighths = np.round(8 * height * sizes / max(1e-9, float(sizes.max())))
    eighths = np.where(histogram.counts > 0, np.maximum(eighths, 1), 0).astype(int)
    middle = len(eighths) // 2
    for row in reversed(range(height)):
        line = Text(no_wrap=True).append(low if row == 0 else " " * len(low), "dim")
        for index, size in enumerate(eighths.tolist()):
            block = _BLOCKS[min(8, max(0, size - 8 * row))]
            style = HELPFUL if index < middle else HARMFUL if index > middle else "dim"
            line.append(block, style)
        if row == 0:
            note = f"{high}  how many documents (log scale)"
            line.append(fit(note, max(0, width - line.cell_len)), "dim")
        yield line


def histogram_bins(width: int) -> int:
    """How many bins fit beside their labels."""
    return max(9, min(121, width - 54))


def detail_lines(shown: DocumentScores, width: int) -> list[Text]:
    """A document in two lines: its place, size and steps; its strongest token where it stands."""
    head = Text(no_wrap=True).append(f"document {shown.document}", "bold")
    if shown.score:
        direction = "helpful" if shown.score < 0 else "harmful"
        head.append(f"  {ordinal(shown.rank)} most {direction}")
    steps = shown.tokens.steps
    listed = ", ".join(str(step) for step in steps[:8]) + (" …" if len(steps) > 8 else "")
    tokens = counted(len(shown.tokens.ids), "token")
    seen = f"  {tokens}, seen at {'step' if len(steps) == 1 else 'steps'} {listed}"
    head.append(fit(seen, max(0, width - head.cell_len)), "dim")
    strongest = shown.strongest_pieces(1)
    if not strongest:
        return [head, Text("no scores of tokens" if shown.scores is None else "", "dim")]
    score = float(shown.piece_scores[strongest[0]])
    line = Text(no_wrap=True).append(f"strongest token {score_text(score)}  ", "dim")
    return [head, line.append_text(in_context(shown, strongest[0], width - line.cell_len))]


def waiting_lines(document: int | None, width: int) -> list[Text]:
    """The same while the document is being read."""
    if document is None:
        return [Text(), Text()]
    return [Text(pad(f"document {document}", width), "bold"), Text("reading …", "dim")]
