"""The ranked documents of a query as lines of text: bars, scores and the beginnings of texts."""

from collections.abc import Iterator

from rich.text import Text

from engine.runs.safe_text import one_line
from engine.scores.attribution import Query
from engine.scores.ranking import Ranked
from engine.scores.top import Top
from magic_tui.text.bars import CENTRE, signed_bar
from magic_tui.text.cells import fit, pad, wrap
from magic_tui.text.numbers import counted, in_all, loss_text, score_text, share_text

HELPFUL, HARMFUL = "color(33)", "color(172)"
SIGN_LINE = "score < 0 helps: more weight on the document lowers this loss; > 0 harms"
_QUERY_LINES = 3


def top_lines(top: Top, width: int) -> Iterator[Text]:
    """Header, the helpful and the harmful documents, and what share of all they carry."""
    yield from query_lines(top.query, top.queries, width)
    yield Text(fit(SIGN_LINE, width), style="dim")
    for title, style, listed in (
        ("most helpful", HELPFUL, top.helpful),
        ("most harmful", HARMFUL, top.harmful),
    ):
        if listed is None:
            continue
        yield Text()
        yield Text(title, style=f"bold {style}")
        if not listed:
            yield Text(f"  none: no document has a {title.split()[1]} score", style="dim")
        for place, ranked in enumerate(listed, start=1):
            yield ranked_line(top, place, ranked, width)
    yield Text()
    yield Text(fit(_footer(top), width), style="dim")


def query_lines(query: Query, queries: int, width: int) -> Iterator[Text]:
    """Which query it is, its text, and its loss before and after training."""
    head = Text().append(f"query {query.index}", "bold")
    head.append(in_all(queries), style="dim")
    name = "loss"
    if query.reduction is not None:
        head.append(f"  {query.reduction}")
        name = "measurement"
    head.append(f"  {name} {loss_text(query.before)} → {loss_text(query.after)}")
    head.append(" after training", style="dim")
    head.truncate(width, overflow="ellipsis")
    yield head
    if query.reduction is None:
        texts = wrap(one_line(query.documents[0].text[:1000]), width - 2, _QUERY_LINES)
    else:
        firsts = query.documents[:_QUERY_LINES]
        texts = [fit(one_line(document.text[:1000]), width - 2) for document in firsts]
    for text in texts:
        yield Text("  " + text, style="italic")
    if query.cut_tokens:
        yield Text(fit(cut_text(query), width), style="dim")


def cut_text(query: Query) -> str:
    """How much of a query is beyond what the model reads."""
    lost = counted(sum(query.cut_tokens), "token")
    of = "" if len(query.documents) == 1 else f" of {counted(len(query.cut_tokens), 'document')}"
    return f"cut at data.sequence_length: the last {lost}{of} are not measured"


def ranked_line(top: Top, place: int, ranked: Ranked, width: int) -> Text:
    """One document: its place, id, signed bar, score and the beginning of its text."""
    half = max(3, min(12, (width - 50) // 5))
    left, right = signed_bar(ranked.score, top.largest, half)
    line = Text(f"{place:>3}  {ranked.document:>{len(str(top.documents - 1))}}  ", no_wrap=True)
    line.append(left, HELPFUL)
    line.append(CENTRE, "dim")
    line.append(right, HARMFUL)
    line.append(f" {score_text(ranked.score)}  ")
    if ranked.document in top.errors:
        line.append(f"± {top.errors[ranked.document]:.1e}  ", "dim")
    label = top.labels.get(ranked.document)
    if label:
        line.append(pad(label, 16 if width < 110 else 30) + "  ", "dim")
    line.append(fit(top.snippets[ranked.document], max(0, width - line.cell_len)))
    return line


def _footer(top: Top) -> str:
    shown = counted(len(top.listed), "document")
    carry = "carries" if len(top.listed) == 1 else "carry"
    return (
        f"the {shown} above {carry} {share_text(top.share)} of the total |influence| "
        f"of {counted(top.documents, 'document')}"
    )
