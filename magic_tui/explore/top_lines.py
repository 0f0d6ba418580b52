"""What ``magic top`` prints: ranked documents, and the verdict and warnings on their scores."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.text import Text

from engine.runs.safe_text import one_line
from engine.scores.attribution import Query
from engine.scores.ranking import Ranked
from engine.scores.run_records import rounding_text
from engine.scores.top import Top
from magic_tui.text.bars import CENTRE, HARMFUL, HELPFUL, signed_bar
from magic_tui.text.cells import fit, pad, wrap
from magic_tui.text.numbers import counted, in_all, loss_text, score_text, share_text

if TYPE_CHECKING:
    from engine.evaluation.verdict import Verdict

SIGN_LINE = "score < 0 helps: more weight on the document lowers this loss; > 0 harms"
_QUERY_LINES = 3
_VERDICT_LINES = 4


def top_lines(top: Top, width: int) -> Iterator[Text]:
    """The query, helpful and harmful documents, and their share of the total influence."""
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
    """A query's index, its loss before and after training, and its text."""
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
    """How many of a query's tokens exceed the sequence length."""
    lost = counted(sum(query.cut_tokens), "token")
    of = "" if len(query.documents) == 1 else f" of {counted(len(query.cut_tokens), 'document')}"
    return f"cut at data.sequence_length: the last {lost}{of} are not measured"


def ranked_line(top: Top, place: int, ranked: Ranked, width: int) -> Text:
    """One document: place, id, bar, score, beginning of the text."""
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
    documents = counted(len(top.listed), "document")
    carry = "carries" if len(top.listed) == 1 else "carry"
    return (
        f"the {documents} above {carry} {share_text(top.share)} of the total |influence| "
        f"of {counted(top.documents, 'document')}"
    )


def verdict_lines(verdict: "Verdict | None", width: int) -> Iterator[Text]:
    """The verdict; a doubtful or worse one with its reason and remedy."""
    if verdict is None:
        return
    quiet = verdict.symbol not in "!✗"
    yield Text(f"{verdict.symbol} {verdict.words}", "dim" if quiet else "bold", no_wrap=True)
    for sentence in () if quiet else filter(None, (verdict.reason, verdict.remedy)):
        for line in wrap(one_line(sentence), width - 2, _VERDICT_LINES):
            yield Text(f"  {line}", "dim", no_wrap=True)


def warning_lines(view: Mapping[str, Any], query: int, width: int) -> Iterator[Text]:
    """The rounding error of a query's scores, and the attribution's warnings."""
    rounding = view.get("rounding") or ()
    if query < len(rounding):
        yield Text(fit(f"rounding: {rounding_text(rounding[query])}", width), "dim")
    for sentence in view.get("warnings") or ():
        for line in wrap(one_line(f"warning: {sentence}"), width, _VERDICT_LINES):
            yield Text(line, no_wrap=True)
