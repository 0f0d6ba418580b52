"""What is said about a list of documents, and how it leaves the dashboard."""

from pathlib import Path
from typing import Any

from rich.text import Text
from textual.worker import get_current_worker

from engine.scores.document import DocumentScores
from engine.scores.ranking import Ranking
from magic_tui.explore import influences_lines as render
from magic_tui.explore import influences_view as making
from magic_tui.explore.explore_screen import ExploringScreen
from magic_tui.explore.export import Format, default_folder
from magic_tui.explore.influences_view import Found, Ranked, View
from magic_tui.explore.plain_list import listing
from magic_tui.explore.ranked_list import RankedList
from magic_tui.explore.score_browser import ScoreBrowser
from magic_tui.widgets.lines import Lines
from magic_tui.widgets.prompt import Prompt


class ListedScreen(ExploringScreen):
    """Holds a ranking and what is shown of it; copies, pages and exports it."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        super().__init__()
        self.view = View()
        self.ranked: Ranked | None = None
        self._searched: Found | None = None
        self._detailed: DocumentScores | None = None

    @property
    def ranks(self) -> RankedList:
        """The list of documents."""
        return self.query_one(RankedList)

    def action_copy(self) -> None:
        """Copy the marked documents, or the current one."""
        if self.ranked is None:
            return
        marked = sorted(self.ranks.marked, key=lambda d: self._ranking().index(d) or 0)
        current = [] if self.ranks.document is None else [self.ranks.document]
        self._listing(marked or current, lambda text: self.magic.copy(text, "documents"))

    def action_pager(self) -> None:
        """Read the first documents of the list in a pager."""
        if self.ranked is not None:
            first = [int(d) for d in self._ranking().order[: render.PAGED]]
            self._listing(first, self.magic.page)

    def action_export(self) -> None:
        """Ask where to export to."""
        if self.explored is not None:
            value = f"csv {self._default_folder('csv')}"
            self.query_one(Prompt).open("csv or pt, and a new folder:", value, self._export)

    def clear(self) -> None:
        """Show nothing: what was shown is not what is selected."""
        self.ranked = self._searched = self._detailed = None
        self.workers.cancel_group(self, "search")
        self.ranks.clear()
        for lines in self.query(Lines):
            lines.show([])

    def _ranking(self) -> Ranking:
        assert self.ranked is not None
        found = self._searched
        return (
            self.ranked.ranking
            if found is None
            else self.ranked.ranking.restricted_to(found.documents)
        )

    def _listing(self, documents: list[int], give: Any) -> None:
        if self.ranked is not None:
            query, ranking = self.ranked.query, self._ranking()
            self.read_more("listing", lambda e: listing(e, query, ranking, documents), give)

    def _default_folder(self, format: Format) -> Path:
        assert self.explored is not None
        return Path(default_folder(self.explored.attribution, format)).absolute()

    def _export(self, answer: str) -> None:
        kind, _, folder = answer.strip().partition(" ")
        if kind not in ("csv", "pt") or not folder.strip():
            self.magic.show_message("write csv or pt, then the name of a new folder", "warning")
            return
        path = Path(folder.strip()).expanduser().absolute()
        format: Format = "pt" if kind == "pt" else "csv"
        if self.explored is not None and path == self._default_folder("csv"):
            path = self._default_folder(format)
        self.magic.show_message(f"exporting to {path} …")

        def make(explored: ScoreBrowser) -> None:
            # It goes on, and tells what came of it, whatever is looked at meanwhile.
            told = making.export(format, path, explored)
            self.from_thread(get_current_worker(), lambda: self.magic.show_message(told))

        self.read_more("export", make, lambda _: None)

    def _show_facts(self) -> None:
        if self.ranked is None or self.explored is None or not self.is_mounted:
            return
        width, listed = self.size.width - 2, self._ranking()
        place = (self.ranks.cursor, self._searched)
        facts = making.fact_lines(self.explored, self.ranked, listed, place, width)
        self.query_one("#facts", Lines).show(facts)
        histogram = self.query_one("#histogram", Lines)
        bins = self.ranked.ranking.histogram(render.histogram_bins(width))
        histogram.show(list(render.histogram_lines(bins, width, histogram.size.height or 1)))
        columns = self.ranks.columns()
        heads = columns.heads(width) if columns is not None else []
        self.query_one("#heads", Lines).show([Text.assemble(*heads)])
        self._show_detail(self.ranked.query, width)

    def _show_detail(self, query: int, width: int) -> None:
        document, shown = self.ranks.document, self._detailed
        if shown is not None and (shown.document, shown.query.index) == (document, query):
            lines = render.detail_lines(shown, width)
        else:
            lines = render.waiting_lines(document, width)
        self.query_one("#detail", Lines).show(lines)
