"""What the Document screen shows: made in a thread, drawn by the screen."""

from dataclasses import dataclass

from engine.runs.errors import UsageError
from engine.scores.document import DocumentScores
from magic_tui.explore.score_browser import ScoreBrowser


@dataclass(frozen=True)
class Sheet:
    """What one reading made; ``scale`` is None for the document's own."""

    shown: DocumentScores
    scale: float | None


def find_piece(shown: DocumentScores, wanted: str, after: int) -> int | None:
    """The first piece behind ``after``, going round, at which a text begins, whatever its case."""
    text = "".join(piece.text for piece in shown.pieces).lower()
    starts: list[int] = []
    place = 0
    for piece in shown.pieces:
        place += len(piece.text.lower())
        starts.append(place)
    behind = starts[after] if after < len(starts) else 0
    found = text.find(wanted.lower(), behind)
    if found < 0:
        found = text.find(wanted.lower())
    return next((i for i, stop in enumerate(starts) if stop > found), None) if found >= 0 else None


def read_sheet(query: int, document: int | None, everything: bool, explored: ScoreBrowser) -> Sheet:
    """Read a document, the strongest one if none is named; ``everything`` asks for a scale of all.

    Raises:
        UsageError: if there is no such document.
    """
    if document is None:
        strongest = explored.ranking(query).order[:1]
        if not len(strongest):
            raise UsageError("this run has no documents")
        document = int(strongest[0])
    shown = explored.shown(query, document)
    scale = explored.scale(query) if everything and explored.has_tokens else None
    return Sheet(shown, scale)


def neighbour(query: int, document: int, step: int, explored: ScoreBrowser) -> int:
    """The document some places further on in the ranking of a query."""
    ranking = explored.ranking(query)
    place = ranking.index(document) or 0
    return int(ranking.order[min(max(0, place + step), len(ranking) - 1)])
