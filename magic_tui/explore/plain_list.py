"""A ranked list as plain text, to be copied or read in a pager."""

from collections.abc import Sequence

from engine.runs.safe_text import safe_text
from engine.scores.ranking import Ranking
from magic_tui.explore.influences_lines import query_line
from magic_tui.explore.score_browser import ScoreBrowser
from magic_tui.text.numbers import count_text, score_text, share_text

_WIDTH = 200


def listing(explored: ScoreBrowser, query: int, ranking: Ranking, documents: Sequence[int]) -> str:
    """Run, attribution, query, and a line a document; reads the beginnings of their texts."""
    attribution = explored.attribution
    explored.load_snippets(documents)
    head = [
        f"run {safe_text(attribution.run.id)}  attribution {safe_text(attribution.id)}",
        query_line(attribution.query(query), explored.queries, _WIDTH).plain,
        "",
        f"{'#':>7}  {'document':>8}  {'score':>10}  {'share':>6}  text",
    ]
    return "\n".join([*head, *(_line(explored, ranking, d) for d in documents), ""])


def _line(explored: ScoreBrowser, ranking: Ranking, document: int) -> str:
    place = ranking.index(document)
    shown = "–" if place is None else count_text(place + 1)
    score = score_text(float(ranking.values[document]))
    share = share_text(ranking.share(document))
    snippet = explored.snippets.get(document) or ""
    return f"{shown:>7}  {document:>8}  {score}  {share:>6}  {snippet}"
