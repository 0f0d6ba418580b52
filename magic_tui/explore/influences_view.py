"""What the Influences screen lists and says: made in a thread, drawn by the screen."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.text import Text
from textual.worker import get_current_worker

from engine.runs.errors import MagicError
from engine.runs.safe_text import one_line
from engine.scores.document import DocumentScores
from engine.scores.ranking import Aggregation, Direction, Ranking, score_correlation
from magic_tui.explore import influences_lines as render
from magic_tui.explore.export import Format, export_scores
from magic_tui.explore.score_browser import ScoreBrowser
from magic_tui.text.cells import fit
from magic_tui.text.numbers import counted

_TELL_SECONDS = 0.2
_SETTLE_SECONDS = 0.08


@dataclass(frozen=True)
class View:
    """What is listed, and how."""

    direction: Direction = "all"
    aggregation: Aggregation = "sum"
    beside: int | None = None
    """Another query whose scores stand beside."""

    def fitting(self, explored: ScoreBrowser, query: int) -> "View":
        """The same without what this attribution does not have."""
        beside = self.beside
        if beside is not None and (beside == query or beside >= explored.queries):
            beside = None
        possible = explored.why_not_aggregation(self.aggregation) is None
        return replace(self, beside=beside, aggregation=self.aggregation if possible else "sum")


@dataclass(frozen=True)
class Ranked:
    """What one reading made."""

    run: str
    attribution: str
    query: int
    view: View
    ranking: Ranking
    other: Ranking | None
    correlation: float | None


@dataclass(frozen=True)
class Found:
    """Documents that hold a text, as far as the search has come."""

    wanted: str
    documents: NDArray[np.int64]
    looked: int = 0
    """Documents looked at so far."""

    def note(self, total: int) -> str:
        """What is sought, and how far the search is while it goes on."""
        note = f"with “{fit(one_line(self.wanted), 20)}”"
        return note if self.looked >= total else f"{note} ({self.looked / max(1, total):.0%} read)"


def rank(query: int, view: View, explored: ScoreBrowser) -> Ranked:
    """Put the documents of a query in order."""
    run, attribution = explored.attribution.run.id, explored.attribution.id
    view = view.fitting(explored, query)
    ranking = explored.ranking(query, view.aggregation, view.direction)
    if view.beside is None:
        return Ranked(run, attribution, query, view, ranking, None, None)
    other = explored.ranking(view.beside, view.aggregation)
    agrees = score_correlation(ranking.values, other.values)
    return Ranked(run, attribution, query, view, ranking, other, agrees)


def settled(query: int, document: int, explored: ScoreBrowser) -> DocumentScores | None:
    """A document once the cursor has stood on it for a moment; None if it moved on."""
    time.sleep(_SETTLE_SECONDS)
    if get_current_worker().is_cancelled:
        return None
    return explored.shown(query, document)


def search(wanted: str, tell: Callable[[Found], bool], explored: ScoreBrowser) -> Found:
    """Look through all texts, telling now and then what was found; ``tell`` may end it."""
    found: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    looked, told = 0, time.monotonic()
    for documents, looked in explored.texts.search(wanted):
        found.append(documents)
        if time.monotonic() - told > _TELL_SECONDS:
            if not tell(Found(wanted, np.concatenate(found), looked)):
                break
            told = time.monotonic()
    return Found(wanted, np.concatenate(found), looked)


def export(format: Format, folder: Path, explored: ScoreBrowser) -> str:
    """Write the scores; a sentence on what came of it."""
    try:
        files = export_scores(explored.attribution, format, folder)
    except MagicError as error:
        return str(error)
    except OSError as error:
        return f"{folder}: {error.strerror}"
    return f"{counted(len(files), 'file')} written to {files[0].parent}"


def fact_lines(
    explored: ScoreBrowser,
    ranked: Ranked,
    listed: Ranking,
    place: tuple[int, Found | None],
    width: int,
) -> list[Text]:
    """The query, what is listed (or the query beside), and what share the first ones carry.

    Args:
        explored: where to read.
        ranked: the ranking of all documents.
        listed: what of it is listed.
        place: the cursor's index in the list, and the search if there is one.
        width: cells of a line.
    """
    cursor, found = place
    query = explored.attribution.query(ranked.query)
    note = found.note(len(explored.texts)) if found is not None else None
    second = render.listed_line(listed, ranked.view.aggregation, note, width)
    first = render.query_line(query, explored.queries, width)
    carried = render.carried_line(listed, cursor, width)
    if ranked.view.beside is None:
        return [first, second, carried]
    beside = _beside_line(explored, ranked, width)
    # A list that a search shortened says so, whatever else there is to be said.
    return [first, beside, carried if found is None else second]


def _beside_line(explored: ScoreBrowser, ranked: Ranked, width: int) -> Text:
    other, agrees = explored.attribution.query(ranked.view.beside or 0), ranked.correlation
    line = Text(no_wrap=True).append(f"beside query {other.index}", "bold")
    if agrees is not None:
        whole = counted(len(ranked.ranking.values), "document")
        line.append(f"  correlation {agrees:+.2f} over all {whole}")
    text = one_line(other.documents[0].text[:1000])
    return line.append(fit("  " + text, max(0, width - line.cell_len)), "italic")
