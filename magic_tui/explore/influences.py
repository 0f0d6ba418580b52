"""The ranked documents of a query: options, ranking, search, and the lines around the list.

Functions that take a :class:`ScoreBrowser` may read files; call them from thread workers.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.text import Text
from textual.worker import get_current_worker

from engine.runs.errors import MagicError
from engine.runs.safe_text import one_line, safe_text
from engine.scores.attribution import Query
from engine.scores.document import DocumentScores
from engine.scores.ranking import (
    AGGREGATION_NAMES,
    Aggregation,
    Direction,
    Histogram,
    Ranking,
    score_correlation,
)
from magic_tui.explore.document_lines import in_context, ordinal, steps_text
from magic_tui.explore.export import Format, export_scores
from magic_tui.explore.score_browser import ScoreBrowser
from magic_tui.text.bars import HARMFUL, HELPFUL
from magic_tui.text.cells import fit, join_that_fit, pad
from magic_tui.text.numbers import count_text, counted, in_all, loss_text, score_text, share_text

PAGED = 500
"""Documents shown in a pager."""
_PROGRESS_SECONDS = 0.2
_SETTLE_SECONDS = 0.08
_BLOCKS = " ▁▂▃▄▅▆▇█"
_LANDMARKS = (10, 50, 500, 5_000, 50_000)
_COPY_WIDTH = 200


@dataclass(frozen=True)
class Options:
    """What is listed, and in which order."""

    direction: Direction = "all"
    aggregation: Aggregation = "sum"
    beside: int | None = None
    """Another query, whose scores are shown beside."""

    def available(self, browser: ScoreBrowser, query: int) -> "Options":
        """The options that this attribution supports; others are reset."""
        beside = self.beside
        if beside is not None and (beside == query or beside >= browser.queries):
            beside = None
        problem = browser.aggregation_problem(self.aggregation)
        aggregation = self.aggregation if problem is None else "sum"
        return replace(self, beside=beside, aggregation=aggregation)


@dataclass(frozen=True)
class Ranked:
    """The ranked documents of a query."""

    run: str
    attribution: str
    query: int
    options: Options
    ranking: Ranking
    other: Ranking | None
    correlation: float | None
    """Correlation with the scores of the other query, over all documents."""


@dataclass(frozen=True)
class Matches:
    """Documents that contain a text, as far as the search has progressed."""

    wanted: str
    documents: NDArray[np.int64]
    searched: int = 0
    """Documents searched so far."""

    def note(self, total: int) -> str:
        """The text, and the progress while the search runs."""
        note = f"with “{fit(one_line(self.wanted), 20)}”"
        if self.searched >= total:
            return note
        return f"{note} ({self.searched / max(1, total):.0%} read)"


def rank(query: int, options: Options, browser: ScoreBrowser) -> Ranked:
    """Rank the documents of a query."""
    run, attribution = browser.attribution.run.id, browser.attribution.id
    options = options.available(browser, query)
    ranking = browser.ranking(query, options.aggregation, options.direction)
    if options.beside is None:
        return Ranked(run, attribution, query, options, ranking, None, None)
    other = browser.ranking(options.beside, options.aggregation)
    correlation = score_correlation(ranking.values, other.values)
    return Ranked(run, attribution, query, options, ranking, other, correlation)


def read_settled(query: int, document: int, browser: ScoreBrowser) -> DocumentScores | None:
    """Read a document once the cursor has rested on it; None if it moved on."""
    time.sleep(_SETTLE_SECONDS)
    if get_current_worker().is_cancelled:
        return None
    return browser.document(query, document)


def search(wanted: str, report: Callable[[Matches], bool], browser: ScoreBrowser) -> Matches:
    """Search all texts; ``report`` receives interim matches and returns whether to continue."""
    parts: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    searched, reported = 0, time.monotonic()
    for documents, searched in browser.texts.search(wanted):
        parts.append(documents)
        if time.monotonic() - reported > _PROGRESS_SECONDS:
            if not report(Matches(wanted, np.concatenate(parts), searched)):
                break
            reported = time.monotonic()
    return Matches(wanted, np.concatenate(parts), searched)


def export(format: Format, folder: Path, browser: ScoreBrowser) -> str:
    """Export the scores; returns a sentence about the result."""
    try:
        files = export_scores(browser.attribution, format, folder)
    except MagicError as error:
        return str(error)
    except OSError as error:
        return f"{folder}: {error.strerror}"
    return f"{counted(len(files), 'file')} written to {files[0].parent}"


def plain_listing(
    browser: ScoreBrowser, query: int, ranking: Ranking, documents: Sequence[int]
) -> str:
    """Documents of a ranking as plain text, for the clipboard and the pager."""
    attribution = browser.attribution
    browser.load_snippets(documents)
    lines = [
        f"run {safe_text(attribution.run.id)}  attribution {safe_text(attribution.id)}",
        query_line(attribution.query(query), browser.queries, _COPY_WIDTH).plain,
        "",
        f"{'#':>7}  {'document':>8}  {'score':>10}  {'share':>6}  text",
    ]
    for document in documents:
        place = ranking.index(document)
        number = "–" if place is None else count_text(place + 1)
        score, share = float(ranking.values[document]), share_text(ranking.share(document))
        snippet = browser.snippets.get(document) or ""
        lines.append(f"{number:>7}  {document:>8}  {score_text(score)}  {share:>6}  {snippet}")
    return "\n".join([*lines, ""])


def fact_lines(
    browser: ScoreBrowser,
    ranked: Ranked,
    listed: Ranking,
    position: tuple[int, Matches | None],
    width: int,
) -> list[Text]:
    """Three lines: the query, the list (or the query beside), the cumulative share.

    Args:
        browser: the attribution.
        ranked: the ranking of all documents.
        listed: the listed part of it.
        position: the cursor's index in the list, and the matches of a search.
        width: cells of a line.
    """
    cursor, matches = position
    query = browser.attribution.query(ranked.query)
    note = matches.note(len(browser.texts)) if matches is not None else None
    listed_facts = _listed_line(listed, ranked.options.aggregation, note, width)
    first = query_line(query, browser.queries, width)
    shares = _share_line(listed, cursor, width)
    if ranked.options.beside is None:
        return [first, listed_facts, shares]
    beside = _beside_line(browser, ranked, width)
    # A list shortened by a search always shows the search.
    return [first, beside, shares if matches is None else listed_facts]


def query_line(query: Query, queries: int, width: int) -> Text:
    """A query's index, its loss before and after training, and its text."""
    line = Text(no_wrap=True).append(f"query {query.index}", "bold")
    line.append(in_all(queries), "dim")
    name = "loss" if query.reduction is None else query.reduction
    line.append(f"  {name} {loss_text(query.before)} → {loss_text(query.after)}  ")
    text = one_line(query.documents[0].text[:1000])
    return line.append(fit(text, max(0, width - line.cell_len)), "italic")


def histogram_bins(width: int) -> int:
    """Number of bins that fit beside the labels."""
    return max(9, min(121, width - 54))


def histogram_lines(histogram: Histogram, width: int, height: int) -> Iterator[Text]:
    """The distribution of scores; bars show the logarithm of the counts."""
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
            note = f"{high}  documents per score (log scale)"
            line.append(fit(note, max(0, width - line.cell_len)), "dim")
        yield line


def detail_lines(document: DocumentScores, width: int) -> list[Text]:
    """A document in two lines: rank, size and steps; then its strongest token in context."""
    line = Text(no_wrap=True).append(f"document {document.document}", "bold")
    if document.score:
        direction = "helpful" if document.score < 0 else "harmful"
        line.append(f"  {ordinal(document.rank)} most {direction}")
    tokens = counted(len(document.tokens.ids), "token")
    seen = f"  {tokens}, seen at {steps_text(document, 8)}"
    line.append(fit(seen, max(0, width - line.cell_len)), "dim")
    strongest = document.strongest_pieces(1)
    if not strongest:
        return [line, Text("no token scores" if document.scores is None else "", "dim")]
    score = float(document.piece_scores[strongest[0]])
    token = Text(no_wrap=True).append(f"strongest token {score_text(score)}  ", "dim")
    context = in_context(document, strongest[0], width - token.cell_len)
    return [line, token.append_text(context)]


def loading_lines(document: int | None, width: int) -> list[Text]:
    """The same two lines while the document is being read."""
    if document is None:
        return [Text(), Text()]
    return [Text(pad(f"document {document}", width), "bold"), Text("reading …", "dim")]


def _listed_line(ranking: Ranking, aggregation: Aggregation, note: str | None, width: int) -> Text:
    helpful, harmful = ranking.sign_counts
    names = {"all": "all", "helpful": "helpful only", "harmful": "harmful only"}
    how = f"{names[ranking.direction]}, by {AGGREGATION_NAMES[aggregation]}"
    total = counted(len(ranking.values), "document")
    parts = [f"{total}: {count_text(helpful)} help, {count_text(harmful)} harm", how]
    if note is not None:
        parts = [f"{note}: {counted(len(ranking), 'document')}", how, parts[0]]
    return Text(fit(" · ".join(parts), width), no_wrap=True)


def _share_line(ranking: Ranking, cursor: int, width: int) -> Text:
    """The share of the total |influence| in the top documents and down to the cursor."""
    marks = [mark for mark in _LANDMARKS if mark < len(ranking)]
    here = f"to the cursor {share_text(ranking.cumulative_share(cursor + 1))}"
    parts = [
        f"top {count_text(mark)} = {share_text(ranking.cumulative_share(mark))}" for mark in marks
    ]
    line = join_that_fit(["share of all |influence|:", here, *parts], width)
    return Text(line, "dim", no_wrap=True)


def _beside_line(browser: ScoreBrowser, ranked: Ranked, width: int) -> Text:
    other = browser.attribution.query(ranked.options.beside or 0)
    line = Text(no_wrap=True).append(f"beside query {other.index}", "bold")
    if ranked.correlation is not None:
        total = counted(len(ranked.ranking.values), "document")
        line.append(f"  correlation {ranked.correlation:+.2f} over all {total}")
    text = one_line(other.documents[0].text[:1000])
    return line.append(fit("  " + text, max(0, width - line.cell_len)), "italic")
