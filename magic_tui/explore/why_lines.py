"""The reasons of a query as sentences."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from rich.cells import cell_len
from rich.text import Text

from engine.runs.safe_text import one_line, safe_text
from engine.runs.score_store import Floats
from magic_tui.explore.show_lines import colours, ordinal
from magic_tui.explore.top_lines import HARMFUL, HELPFUL
from magic_tui.explore.why import Reason, Why
from magic_tui.text.cells import ELLIPSIS, fit, wrap
from magic_tui.text.numbers import counted, in_all, loss_text, score_text, share_text
from magic_tui.text.tokens import Shade, line_text, mark_text

_BLOCKS = "▁▂▃▄▅▆▇█"
_INDENT = "    "
_STEPS = 6
_QUERY_LINES = 4


@dataclass(frozen=True)
class Line:
    """A line, and the document that it is the first line about."""

    text: Text
    document: int | None = None


def why_lines(why: Why, width: int, colour: bool, losses: Iterable[Text] = ()) -> Iterator[Line]:
    """The query, what its strongest documents did, when it happened, and how far to trust it.

    Args:
        why: the facts.
        width: cells of a line.
        colour: whether colours may carry meaning.
        losses: lines on the query's own tokens, which stand below it.
    """
    yield from map(Line, _query_lines(why, width))
    yield from map(Line, losses)
    if why.chosen is not None:
        yield from _section("the document you chose", "bold", [why.chosen], why, width, colour)
    yield from _section("what lowered it most", f"bold {HELPFUL}", why.helpful, why, width, colour)
    yield from _section("what raised it most", f"bold {HARMFUL}", why.harmful, why, width, colour)
    yield from map(Line, _step_lines(why, width))
    yield from map(Line, _trust_lines(why, width))


def sentence(reason: Reason, name: str) -> str:
    """What leaving a document out is predicted to do, from its score alone."""
    shown = reason.shown
    if reason.effect == 0:
        return f"leaving document {shown.document} out is predicted not to change this {name}"
    change = "raise" if reason.effect > 0 else "lower"
    steps = shown.tokens.steps
    listed = ", ".join(str(step) for step in steps[:_STEPS]) + (" …" if len(steps) > _STEPS else "")
    seen = f"seen at {'step' if len(steps) == 1 else 'steps'} {listed}" if steps else "never seen"
    direction = "helpful" if reason.effect > 0 else "harmful"
    return (
        f"leaving document {shown.document} out is predicted to {change} this {name} by "
        f"{abs(reason.effect):.3g} ({ordinal(shown.rank)} most {direction}; {seen})"
    )


def _query_lines(why: Why, width: int) -> Iterator[Text]:
    query = why.query
    head = Text(no_wrap=True).append(f"query {query.index}", "bold")
    head.append(in_all(why.queries), "dim")
    change = "fell" if query.after < query.before else "rose"
    head.append(f"  its {_name(why)} {change} from {loss_text(query.before)} ")
    head.append(f"to {loss_text(query.after)} in training")
    head.truncate(width, overflow="ellipsis")
    yield head
    for line in wrap(one_line(query.documents[0].text[:2000]), width - 2, _QUERY_LINES):
        yield Text("  " + line, "italic")


def _section(
    title: str, style: str, reasons: list[Reason], why: Why, width: int, colour: bool
) -> Iterator[Line]:
    yield Line(Text())
    yield Line(Text(title, style))
    if not reasons:
        yield Line(Text("  no document did", "dim"))
    for reason in reasons:
        yield from _reason_lines(reason, _name(why), width, colour)


def _reason_lines(reason: Reason, name: str, width: int, colour: bool) -> Iterator[Line]:
    for number, line in enumerate(wrap(sentence(reason, name), width - 2, 4)):
        yield Line(Text("  " + line), reason.shown.document if number == 0 else None)
    if reason.strongest is not None:
        around = window(reason, width - len(_INDENT))
        if colour:
            yield Line(Text(_INDENT).append_text(line_text(around)))
        else:
            yield Line(Text(_INDENT + "".join(shade.text for shade in around)))
            yield Line(Text(_INDENT + mark_text(around)))
    if reason.shown.tokens.whole:
        text = one_line(reason.shown.pieces[0].text)
        yield Line(Text(_INDENT + fit(text, width - len(_INDENT))))
    for run in reason.shared:
        overlap = Text(no_wrap=True).append(_INDENT + "overlap, not influence: ", "dim")
        room = max(0, width - overlap.cell_len)
        yield Line(overlap.append(fit(one_line(run), room), "underline"))


def window(reason: Reason, width: int) -> list[Shade]:
    """The text around a document's strongest token, coloured, on one line; ``…`` where it goes on.

    It grows on both sides alike as long as there is room.
    """
    pieces, found = reason.shown.pieces, colours(reason.shown)
    room = width - 2 * cell_len(ELLIPSIS)

    def shade(index: int) -> Shade:
        return _flat(found.shade(index, pieces[index].text), room)

    first = last = reason.strongest or 0
    kept = [shade(first)]
    used = cell_len(kept[0].text)
    sides = [-1, 1]
    while sides:
        for side in tuple(sides):
            index = first - 1 if side < 0 else last + 1
            added = shade(index) if 0 <= index < len(pieces) else None
            if added is None or used + cell_len(added.text) > room:
                sides.remove(side)
                continue
            used += cell_len(added.text)
            kept = [added, *kept] if side < 0 else [*kept, added]
            first, last = min(first, index), max(last, index)
    cut = Shade(ELLIPSIS, learned=False)
    return [*([cut] if first > 0 else []), *kept, *([cut] if last < len(pieces) - 1 else [])]


def _flat(shade: Shade, width: int) -> Shade:
    text = fit(safe_text(shade.text.replace("\n", " ")), width)
    return Shade(text, shade.level, shade.learned)


def _step_lines(why: Why, width: int) -> Iterator[Text]:
    peak = why.peak
    if peak is None:
        return
    yield Text()
    yield Text("when it happened", "bold")
    yield Text("  ").append_text(step_strip(why.steps, width - 4))
    total = float(np.abs(why.steps).sum())
    share = share_text(abs(float(why.steps[peak])) / total) if total > 0 else "–"
    strongest = f"  steps 0 to {len(why.steps) - 1}; the strongest is step {peak} with "
    rest = f"{score_text(float(why.steps[peak]))}, {share} of all |influence|; more with 7"
    yield Text(fit(strongest + rest, width), "dim")


def step_strip(steps: Floats, width: int) -> Text:
    """|influence| over the steps in one line, blue where it helped on the whole."""
    parts = np.array_split(steps.astype(np.float64), max(1, min(width, len(steps))))
    sizes = np.array([np.abs(part).sum() / len(part) for part in parts])
    largest = float(sizes.max()) or 1.0
    strip = Text(no_wrap=True)
    for part, size in zip(parts, sizes.tolist(), strict=True):
        block = _BLOCKS[min(7, int(8 * size / largest))]
        strip.append(block, HELPFUL if part.sum() < 0 else HARMFUL if part.sum() > 0 else "dim")
    return strip


def _trust_lines(why: Why, width: int) -> Iterator[Text]:
    verdict = why.verdict
    yield Text()
    yield Text("how far to trust it", "bold")
    if verdict is not None:
        yield Text(fit(f"  {verdict.symbol} {verdict.words}", width))
    note = (
        "These are exact derivatives: first-order predictions of small changes of one document's "
        f"weight. The {counted(len(why.helpful) + len(why.harmful), 'document')} above were not "
        "left out in truth; more with 8."
    )
    for line in wrap(note, width - 2, 4):
        yield Text("  " + line, "dim")


def _name(why: Why) -> str:
    return "loss" if why.query.reduction is None else "measurement"
