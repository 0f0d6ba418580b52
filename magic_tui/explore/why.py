"""Why a query's loss is what it is: facts about its strongest documents, and their rendering."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from rich.cells import cell_len
from rich.text import Text

from engine.evaluation.summary import verdict_of
from engine.evaluation.verdict import Verdict
from engine.runs.safe_text import one_line, safe_text
from engine.runs.score_store import Floats
from engine.scores.attribution import Query
from engine.scores.document import DocumentScores
from magic_tui.explore.document_lines import ordinal, shading_of, steps_text
from magic_tui.explore.score_browser import ScoreBrowser
from magic_tui.text.bars import HARMFUL, HELPFUL
from magic_tui.text.cells import ELLIPSIS, fit, wrap
from magic_tui.text.numbers import counted, in_all, loss_text, score_text, share_text
from magic_tui.text.tokens import Shade, line_text, mark_text

DOCUMENTS = 4
"""Documents reported in each direction."""
LEAST_WORDS = 3
"""Shorter runs of shared words are not reported."""
_BLOCKS = "▁▂▃▄▅▆▇█"
_INDENT = "    "
_STEPS = 6
_QUERY_LINES = 4
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Reason:
    """One document and its effect on the query."""

    document: DocumentScores
    strongest: int | None
    """The strongest piece; None without token scores."""
    shared: list[str]
    """Runs of words shared with the query."""

    @property
    def effect(self) -> float:
        """Predicted change of the loss if the document is left out, to first order."""
        return -self.document.score


@dataclass(frozen=True)
class Why:
    """The facts on the Why screen."""

    query: Query
    queries: int
    selected: Reason | None
    """The selected document, unless it is among the strongest."""
    helpful: list[Reason]
    harmful: list[Reason]
    steps: Floats
    """(step,) Influence of each step."""
    verdict: Verdict | None

    @property
    def name(self) -> str:
        """What the query measures."""
        return "loss" if self.query.reduction is None else "measurement"

    @property
    def peak(self) -> int | None:
        """The step of largest |influence|; None without steps."""
        return int(np.abs(self.steps).argmax()) if len(self.steps) else None


@dataclass(frozen=True)
class Line:
    """A line, and the document whose part begins on it."""

    text: Text
    document: int | None = None


def read_why(browser: ScoreBrowser, query: int, document: int | None) -> Why:
    """Read the facts of a query, and of the selected document if there is one."""
    attribution = browser.attribution
    helpful = browser.strongest(query, DOCUMENTS, harmful=False)
    harmful = browser.strongest(query, DOCUMENTS, harmful=True)
    selected = None
    if document is not None and document not in (*helpful, *harmful):
        selected = _reason(browser, query, document)
    return Why(
        attribution.query(query),
        browser.queries,
        selected,
        [_reason(browser, query, d) for d in helpful],
        [_reason(browser, query, d) for d in harmful],
        attribution.scores.step_scores(query),
        verdict_of(attribution.run.path, attribution.id),
    )


def why_lines(why: Why, width: int, colour: bool, losses: Iterable[Text] = ()) -> Iterator[Line]:
    """The query, its strongest documents, the steps, and the verdict.

    Args:
        why: the facts.
        width: cells of a line.
        colour: whether colour may carry meaning.
        losses: lines about the query's tokens, shown below the query.
    """
    yield from map(Line, _query_lines(why, width))
    yield from map(Line, losses)
    sections = [
        ("most helpful documents", f"bold {HELPFUL}", why.helpful),
        ("most harmful documents", f"bold {HARMFUL}", why.harmful),
    ]
    if why.selected is not None:
        sections.insert(0, ("the selected document", "bold", [why.selected]))
    for title, style, reasons in sections:
        yield Line(Text())
        yield Line(Text(title, style))
        if not reasons:
            yield Line(Text("  none", "dim"))
        for reason in reasons:
            yield from _reason_lines(reason, why.name, width, colour)
    yield from map(Line, _step_lines(why, width))
    yield from map(Line, _trust_lines(why, width))


def sentence(reason: Reason, name: str) -> str:
    """The predicted effect of leaving a document out, from its score alone."""
    document = reason.document
    if reason.effect == 0:
        return f"leaving document {document.document} out is predicted not to change this {name}"
    change = "raise" if reason.effect > 0 else "lower"
    seen = f"seen at {steps_text(document, _STEPS)}" if document.tokens.steps else "never seen"
    direction = "helpful" if reason.effect > 0 else "harmful"
    return (
        f"leaving document {document.document} out is predicted to {change} this {name} by "
        f"{abs(reason.effect):.3g} ({ordinal(document.rank)} most {direction}; {seen})"
    )


def window(reason: Reason, width: int) -> list[Shade]:
    """The text around a document's strongest token, shaded, on one line.

    The window grows evenly on both sides; ``…`` marks where the text continues.
    """
    pieces, shading = reason.document.pieces, shading_of(reason.document)
    room = width - 2 * cell_len(ELLIPSIS)

    def shade(index: int) -> Shade:
        return _on_one_line(shading.shade(index, pieces[index].text), room)

    first = last = reason.strongest or 0
    shades = [shade(first)]
    used = cell_len(shades[0].text)
    sides = [-1, 1]
    while sides:
        for side in tuple(sides):
            index = first - 1 if side < 0 else last + 1
            added = shade(index) if 0 <= index < len(pieces) else None
            if added is None or used + cell_len(added.text) > room:
                sides.remove(side)
                continue
            used += cell_len(added.text)
            shades = [added, *shades] if side < 0 else [*shades, added]
            first, last = min(first, index), max(last, index)
    cut = Shade(ELLIPSIS, learned=False)
    return [*([cut] if first > 0 else []), *shades, *([cut] if last < len(pieces) - 1 else [])]


def step_strip(steps: Floats, width: int) -> Text:
    """|influence| over the steps in one line; blue where it is helpful in sum."""
    parts = np.array_split(steps.astype(np.float64), max(1, min(width, len(steps))))
    sizes = np.array([np.abs(part).sum() / len(part) for part in parts])
    largest = float(sizes.max()) or 1.0
    strip = Text(no_wrap=True)
    for part, size in zip(parts, sizes.tolist(), strict=True):
        block = _BLOCKS[min(7, int(8 * size / largest))]
        strip.append(block, HELPFUL if part.sum() < 0 else HARMFUL if part.sum() > 0 else "dim")
    return strip


def shared_runs(query: str, document: str, most: int = 3) -> list[str]:
    """The longest runs of words in both texts, as written in the document.

    Runs of fewer than three words, and runs inside a longer one, are left out.
    """
    query_words = [match[0].lower() for match in _WORD.finditer(query)]
    matches = list(_WORD.finditer(document))
    words = [match[0].lower() for match in matches]
    starts: dict[tuple[str, ...], list[int]] = {}
    for i in range(len(query_words) - LEAST_WORDS + 1):
        starts.setdefault(tuple(query_words[i : i + LEAST_WORDS]), []).append(i)
    runs: list[tuple[int, int]] = []
    position = 0
    while position <= len(words) - LEAST_WORDS:
        candidates = starts.get(tuple(words[position : position + LEAST_WORDS]), [])
        lengths = (_common_length(query_words, i, words, position) for i in candidates)
        length = max(lengths, default=0)
        if length:
            runs.append((length, position))
        position += max(1, length)
    runs.sort(key=lambda run: -run[0])
    longer: list[str] = []
    texts: list[str] = []
    for length, at in runs:
        run = f" {' '.join(words[at : at + length])} "
        if not any(run in other for other in longer):
            longer.append(run)
            texts.append(document[matches[at].start() : matches[at + length - 1].end()])
    return texts[:most]


def _common_length(first: list[str], i: int, second: list[str], j: int) -> int:
    """Number of equal words from ``first[i]`` and ``second[j]`` on."""
    most = min(len(first) - i, len(second) - j)
    return next((n for n in range(most) if first[i + n] != second[j + n]), most)


def _reason(browser: ScoreBrowser, query: int, index: int) -> Reason:
    document = browser.document(query, index)
    strongest = document.strongest_pieces(1)
    text = "".join(piece.text for piece in document.pieces)
    query_text = " ".join(part.text for part in document.query.documents)
    # The placeholder of an example is not its content.
    shared = [] if document.tokens.whole else shared_runs(query_text, text)
    return Reason(document, strongest[0] if strongest else None, shared)


def _query_lines(why: Why, width: int) -> Iterator[Text]:
    query = why.query
    line = Text(no_wrap=True).append(f"query {query.index}", "bold")
    line.append(in_all(why.queries), "dim")
    change = "fell" if query.after < query.before else "rose"
    line.append(f"  its {why.name} {change} from {loss_text(query.before)} ")
    line.append(f"to {loss_text(query.after)} in training")
    line.truncate(width, overflow="ellipsis")
    yield line
    for text in wrap(one_line(query.documents[0].text[:2000]), width - 2, _QUERY_LINES):
        yield Text("  " + text, "italic")


def _reason_lines(reason: Reason, name: str, width: int, colour: bool) -> Iterator[Line]:
    for number, line in enumerate(wrap(sentence(reason, name), width - 2, 4)):
        yield Line(Text("  " + line), reason.document.document if number == 0 else None)
    if reason.strongest is not None:
        around = window(reason, width - len(_INDENT))
        if colour:
            yield Line(Text(_INDENT).append_text(line_text(around)))
        else:
            yield Line(Text(_INDENT + "".join(shade.text for shade in around)))
            yield Line(Text(_INDENT + mark_text(around)))
    if reason.document.tokens.whole:
        text = one_line(reason.document.pieces[0].text)
        yield Line(Text(_INDENT + fit(text, width - len(_INDENT))))
    for run in reason.shared:
        overlap = Text(no_wrap=True).append(_INDENT + "overlap, not influence: ", "dim")
        room = max(0, width - overlap.cell_len)
        yield Line(overlap.append(fit(one_line(run), room), "underline"))


def _on_one_line(shade: Shade, width: int) -> Shade:
    text = fit(safe_text(shade.text.replace("\n", " ")), width)
    return Shade(text, shade.level, shade.learned)


def _step_lines(why: Why, width: int) -> Iterator[Text]:
    peak = why.peak
    if peak is None:
        return
    yield Text()
    yield Text("influence over training", "bold")
    yield Text("  ").append_text(step_strip(why.steps, width - 4))
    total = float(np.abs(why.steps).sum())
    share = share_text(abs(float(why.steps[peak])) / total) if total > 0 else "–"
    strongest = f"  steps 0 to {len(why.steps) - 1}; the strongest is step {peak} with "
    rest = f"{score_text(float(why.steps[peak]))}, {share} of all |influence|; more with 7"
    yield Text(fit(strongest + rest, width), "dim")


def _trust_lines(why: Why, width: int) -> Iterator[Text]:
    verdict = why.verdict
    yield Text()
    yield Text("trust", "bold")
    if verdict is not None:
        yield Text(fit(f"  {verdict.symbol} {verdict.words}", width))
    documents = counted(len(why.helpful) + len(why.harmful), "document")
    note = (
        "Scores are exact derivatives: first-order predictions for small changes of a document's "
        f"weight. No model was retrained without the {documents} above; more with 8."
    )
    for line in wrap(note, width - 2, 4):
        yield Text("  " + line, "dim")
