"""Screen 4, Influences: the documents of a query, ranked."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from engine.scores.document import DocumentScores
from engine.scores.ranking import AGGREGATION_NAMES, AGGREGATIONS, DIRECTIONS, Ranking
from magic_tui.explore import influences
from magic_tui.explore.explore_screen import ScoreScreen
from magic_tui.explore.export import Format, default_folder
from magic_tui.explore.influences import Matches, Options, Ranked
from magic_tui.explore.score_browser import ScoreBrowser
from magic_tui.explore.score_list import ScoreList
from magic_tui.widgets.lines import Lines
from magic_tui.widgets.prompt import Prompt
from magic_tui.widgets.selection import Selection

_SNIPPETS_AT_ONCE = 16
_TALL = 34
"""From this height on the histogram has several lines."""


class InfluencesScreen(ScoreScreen):
    """A list of all documents, with a histogram and the strongest token of the current one."""

    NUMBER = 4
    NAME = "Influences"
    ABOUT = (
        "Training documents ranked by their influence on the query. Helpful documents lowered its "
        "loss, harmful ones raised it. A score is the derivative of the loss with respect to the "
        "document's weight."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "search", tooltip="List documents that contain a text."),
        Binding("s", "direction", "helpful/harmful", tooltip="All, helpful or harmful."),
        Binding("m", "aggregation", "aggregation", tooltip="Rank by sum, mean or strongest token."),
        Binding("Q", "query(1)", "query", tooltip="Next query."),
        Binding("right_square_bracket", "query(1)", show=False),
        Binding("left_square_bracket", "query(-1)", show=False, tooltip="Previous query."),
        Binding("v", "beside", "versus", tooltip="Show another query's scores beside these."),
        Binding("V", "next_beside", show=False, tooltip="Next query beside this one."),
        Binding("y", "copy", "copy", tooltip="Copy the marked documents, or the current one."),
        Binding("e", "export", "export", tooltip="Export the scores of all documents."),
        Binding("o", "pager", "pager", tooltip="Read the list in a pager."),
        Binding("colon", "go_to", "go to", show=False, tooltip="Go to a rank or a document."),
        Binding("escape", "back", show=False, tooltip="End the search; otherwise go back."),
    ]

    def __init__(self) -> None:
        """An empty screen."""
        super().__init__()
        self.options = Options()
        self.ranked: Ranked | None = None
        self._matches: Matches | None = None
        self._detail: DocumentScores | None = None

    def body(self) -> ComposeResult:
        """Facts, histogram, list, current document."""
        yield Lines(3, id="facts")
        yield Lines(1, id="histogram")
        yield Lines(1, id="columns", classes="edge")
        yield ScoreList(self._snippet)
        yield Lines(2, id="detail")
        yield Prompt()

    @property
    def documents(self) -> ScoreList:
        """The list of documents."""
        return self.query_one(ScoreList)

    def on_mount(self) -> None:
        """Focus the list."""
        self.documents.focus()

    def on_resize(self) -> None:
        """Adapt the histogram's height."""
        self.query_one("#histogram", Lines).styles.height = 5 if self.size.height >= _TALL else 1
        self.call_after_refresh(self._update_facts)

    def selection_changed(self, selection: Selection) -> None:
        """Rank the documents of the query."""
        rank = functools.partial(influences.rank, selection.query, self.options)
        self.read("ranking", rank, self._show_ranked)

    def clear(self) -> None:
        """Empty the screen."""
        self.ranked = self._matches = self._detail = None
        self.workers.cancel_group(self, "search")
        self.documents.clear()
        for lines in self.query(Lines):
            lines.update([])

    def cli_equivalent(self) -> str:
        """``magic top``."""
        harmful = ["--harmful"] if self.options.direction == "harmful" else []
        count = max(10, self.documents.size.height)
        return self.command("top", "-q", self.selection.query, "-k", count, *harmful)

    def cli_note(self) -> str:
        """``magic top`` has no search, no second query and no other aggregation."""
        options, lacks = self.options, []
        if self._matches is not None:
            lacks.append("the search")
        if options.beside is not None:
            lacks.append(f"query {options.beside} beside it")
        if options.aggregation != "sum":
            lacks.append(f"the order by {AGGREGATION_NAMES[options.aggregation]}")
        return f"without {' and '.join(lacks)}" if lacks else ""

    def disabled_reason(self, action: str) -> str | None:
        """Most actions need scores."""
        if self.browser is None:
            needs = ("search", "direction", "aggregation", "query", "beside", "copy", "export")
            return "no scores have been read yet" if action in (*needs, "pager") else None
        if action in ("query", "beside", "next_beside") and self.only_one_query():
            return self.only_one_query()
        if action == "next_beside" and self.options.beside is None:
            return "no other query is shown; press v to show one"
        if action == "aggregation":
            problems = [self.browser.aggregation_problem(a) for a in AGGREGATIONS[1:]]
            return problems[0] if all(problems) else None
        return None

    def action_search(self) -> None:
        """Prompt for a text."""
        before = self._matches.wanted if self._matches else ""
        self.query_one(Prompt).open("documents with:", before, self._search)

    def action_direction(self) -> None:
        """Cycle through all, helpful and harmful documents."""
        place = DIRECTIONS.index(self.options.direction)
        self._change(direction=DIRECTIONS[(place + 1) % len(DIRECTIONS)])

    def action_aggregation(self) -> None:
        """Rank by the next available aggregation."""
        assert self.browser is not None
        available = [a for a in AGGREGATIONS if self.browser.aggregation_problem(a) is None]
        place = available.index(self.options.aggregation)
        self._change(aggregation=available[(place + 1) % len(available)])

    def action_query(self, step: int) -> None:
        """Select another query."""
        self.select_query(step)

    def action_beside(self) -> None:
        """Show or hide another query's scores."""
        assert self.browser is not None
        following = (self.selection.query + 1) % self.browser.queries
        self._change(beside=following if self.options.beside is None else None)

    def action_next_beside(self) -> None:
        """Show the next query beside this one."""
        assert self.browser is not None and self.options.beside is not None
        following = (self.options.beside + 1) % self.browser.queries
        if following == self.selection.query:
            following = (following + 1) % self.browser.queries
        self._change(beside=following)

    def action_go_to(self) -> None:
        """Prompt for a rank or a document."""
        self.query_one(Prompt).open("rank, or d and a document id:", "", self._go_to)

    def action_back(self) -> None:
        """End the search; without one go back."""
        if self._matches is None:
            self.magic.action_out()
            return
        self._matches = None
        self.workers.cancel_group(self, "search")
        self._update_list(self.documents.document)

    def action_copy(self) -> None:
        """Copy the marked documents, or the current one."""
        if self.ranked is None:
            return
        ranking = self._listed()
        marked = sorted(self.documents.marked, key=lambda d: ranking.index(d) or 0)
        current = [] if self.documents.document is None else [self.documents.document]
        self._list_plainly(marked or current, lambda text: self.magic.copy(text, "documents"))

    def action_pager(self) -> None:
        """Show the first documents in a pager."""
        if self.ranked is not None:
            first = self._listed().order[: influences.PAGED].tolist()
            self._list_plainly(first, self.magic.page)

    def action_export(self) -> None:
        """Prompt for a format and a folder."""
        if self.browser is not None:
            value = f"csv {self._default_folder('csv')}"
            self.query_one(Prompt).open("csv or pt, and a new folder:", value, self._export)

    @on(ScoreList.Chosen)
    def _open(self) -> None:
        if self.documents.document is not None:
            self.open_document(self.documents.document)

    @on(ScoreList.Moved)
    def _moved(self) -> None:
        ranked, document = self.ranked, self.documents.document
        if ranked is None:
            return
        self._update_facts()
        if document is None:
            return
        if self.selection == self._loaded_for:
            # The other screens show the document under the cursor.
            self.select_quietly(document=document)
        read = functools.partial(influences.read_settled, ranked.query, document)
        self.read_more("detail", read, self._show_detail)

    @on(ScoreList.Wanted)
    def _load_snippets(self, event: ScoreList.Wanted) -> None:
        self.read_more("texts", functools.partial(self._read_snippets, event.documents), _nothing)

    def _snippet(self, document: int) -> str | None:
        return None if self.browser is None else self.browser.snippets.get(document)

    def _read_snippets(self, documents: Sequence[int], browser: ScoreBrowser) -> None:
        for start in range(0, len(documents), _SNIPPETS_AT_ONCE):
            part = documents[start : start + _SNIPPETS_AT_ONCE]
            browser.load_snippets(part)
            if not self.call_from_worker(self.documents.refresh_documents, part):
                return

    def _show_ranked(self, ranked: Ranked) -> None:
        before, self.ranked, self.options = self.ranked, ranked, ranked.options
        document = self.selection.document
        if before is not None and before.run != ranked.run:
            # The same ids are other documents in another run.
            self._matches = None
            self.documents.marked.clear()
        if before is not None and before.query != ranked.query and self.documents.cursor == 0:
            # A cursor at the top stays at the top.
            document = None
        self._detail = None
        self._update_list(document)

    def _listed(self) -> Ranking:
        assert self.ranked is not None
        ranking = self.ranked.ranking
        return ranking if self._matches is None else ranking.restricted_to(self._matches.documents)

    def _update_list(self, document: int | None) -> None:
        if self.ranked is not None:
            self.documents.update(self._listed(), self.ranked.other, document)
            self._update_facts()

    def _update_facts(self) -> None:
        if self.ranked is None or self.browser is None or not self.is_mounted:
            return
        width = self.size.width - 2
        position = (self.documents.cursor, self._matches)
        facts = influences.fact_lines(self.browser, self.ranked, self._listed(), position, width)
        self.query_one("#facts", Lines).update(facts)
        histogram = self.query_one("#histogram", Lines)
        bins = self.ranked.ranking.histogram(influences.histogram_bins(width))
        rows = histogram.size.height or 1
        histogram.update(list(influences.histogram_lines(bins, width, rows)))
        columns = self.documents.columns
        header = [] if columns is None else [columns.header(width)]
        self.query_one("#columns", Lines).update(header)
        document, detail = self.documents.document, self._detail
        lines = influences.loading_lines(document, width)
        if detail is not None:
            key = detail.document, detail.query.index
            if key == (document, self.ranked.query):
                lines = influences.detail_lines(detail, width)
        self.query_one("#detail", Lines).update(lines)

    def _show_detail(self, document: DocumentScores | None) -> None:
        self._detail = document
        self._update_facts()

    def _change(self, **changes: Any) -> None:
        self.options = replace(self.options, **changes)
        self.selection_changed(self.selection)

    def _search(self, wanted: str) -> None:
        self.workers.cancel_group(self, "search")
        self._matches = None
        if not wanted:
            self._update_list(self.documents.document)
            return
        self._show_matches(Matches(wanted, np.zeros(0, np.int64)))

        def report(matches: Matches) -> bool:
            return self.call_from_worker(self._show_matches, matches)

        search = functools.partial(influences.search, wanted, report)
        self.read_more("search", search, self._show_matches)

    def _show_matches(self, matches: Matches) -> None:
        document = self.documents.document if self._matches else None
        self._matches = matches
        self._update_list(document)

    def _go_to(self, answer: str) -> None:
        is_document = answer[:1] == "d"
        digits = answer.strip().lstrip("d").replace(",", "").strip()
        if not digits.isdecimal():
            message = "type a rank, such as 7, or a document id, such as d412"
            self.magic.show_message(message, "warning")
            return
        index = self._listed().index(int(digits)) if is_document else int(digits) - 1
        if index is None:
            self.magic.show_message(f"document {digits} is not in this list", "warning")
        else:
            self.documents.move_to(index)

    def _list_plainly(self, documents: list[int], use: Callable[[str], Any]) -> None:
        if self.ranked is None:
            return
        query, ranking = self.ranked.query, self._listed()

        def load(browser: ScoreBrowser) -> str:
            return influences.plain_listing(browser, query, ranking, documents)

        self.read_more("listing", load, use)

    def _default_folder(self, format: Format) -> Path:
        assert self.browser is not None
        return Path(default_folder(self.browser.attribution, format)).absolute()

    def _export(self, answer: str) -> None:
        kind, _, folder = answer.strip().partition(" ")
        if kind not in ("csv", "pt") or not folder.strip():
            self.magic.show_message("type csv or pt, then a new folder's name", "warning")
            return
        path = Path(folder.strip()).expanduser().absolute()
        format: Format = "pt" if kind == "pt" else "csv"
        if self.browser is not None and path == self._default_folder("csv"):
            path = self._default_folder(format)
        self.magic.show_message(f"exporting to {path} …")

        def write(browser: ScoreBrowser) -> None:
            # Reports its result even if another attribution is on screen by then.
            result = influences.export(format, path, browser)
            self.call_from_worker(self.magic.show_message, result)

        self.read_more("export", write, _nothing)


def _nothing(loaded: None) -> None:
    """The worker did everything."""
