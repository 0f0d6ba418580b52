"""Why a query came out as it did: facts about its strongest documents, and nothing but facts."""

from dataclasses import dataclass

import numpy as np

from engine.evaluation.summary import verdict_of
from engine.evaluation.verdict import Verdict
from engine.runs.score_store import Floats
from engine.scores.attribution import Query
from engine.scores.document import DocumentScores
from magic_tui.explore.overlap import shared_runs
from magic_tui.explore.score_browser import ScoreBrowser

DOCUMENTS = 4
"""How many documents are told of in each direction."""


@dataclass(frozen=True)
class Reason:
    """One document's part."""

    shown: DocumentScores
    strongest: int | None
    """Its strongest piece; None if there are no scores of tokens."""
    shared: list[str]
    """Runs of words that it shares with the query."""

    @property
    def effect(self) -> float:
        """Predicted change of the measurement if the document is left out, to first order."""
        return -self.shown.score


@dataclass(frozen=True)
class Why:
    """Everything that the screen tells."""

    query: Query
    queries: int
    chosen: Reason | None
    """The document that is selected, unless it is among the others."""
    helpful: list[Reason]
    harmful: list[Reason]
    steps: Floats
    verdict: Verdict | None

    @property
    def peak(self) -> int | None:
        """The step of largest |influence|; None if there is no step."""
        return int(np.abs(self.steps).argmax()) if len(self.steps) else None


def read_why(explored: ScoreBrowser, query: int, document: int | None) -> Why:
    """Read what there is to tell of a query, and of one document if one is selected."""
    attribution = explored.attribution
    listed = {harmful: explored.strongest(query, DOCUMENTS, harmful) for harmful in (False, True)}
    known = {d for documents in listed.values() for d in documents}
    alone = document is not None and document not in known
    return Why(
        attribution.query(query),
        explored.queries,
        _reason(explored, query, document) if alone and document is not None else None,
        [_reason(explored, query, d) for d in listed[False]],
        [_reason(explored, query, d) for d in listed[True]],
        attribution.scores.step_scores(query),
        verdict_of(attribution.run.path, attribution.id),
    )


def _reason(explored: ScoreBrowser, query: int, document: int) -> Reason:
    shown = explored.shown(query, document)
    strongest = shown.strongest_pieces(1)
    text = "".join(piece.text for piece in shown.pieces)
    asked = " ".join(part.text for part in shown.query.documents)
    # What stands for an example says what it is, and nothing of what is in it.
    shared = [] if shown.tokens.whole else shared_runs(asked, text)
    return Reason(shown, strongest[0] if strongest else None, shared)
