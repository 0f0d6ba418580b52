"""Influences: the documents that moved a query, ranked."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.worker import get_current_worker

from engine.scores.document import DocumentScores
from engine.scores.ranking import AGGREGATION_NAMES, AGGREGATIONS, DIRECTIONS
from magic_tui.explore import influences_view as making
from magic_tui.explore.influences_list import ListedScreen
from magic_tui.explore.influences_view import Found, Ranked
from magic_tui.explore.ranked_list import RankedList
from magic_tui.explore.score_browser import ScoreBrowser
from magic_tui.widgets.lines import Lines
from magic_tui.widgets.prompt import Prompt
from magic_tui.widgets.selection import Selection

_AT_ONCE = 16
_TALL = 34
"""Lines of a terminal that has room for a high histogram."""


class InfluencesScreen(ListedScreen):
    """A list of all documents, however many, and what stands out about them."""

    NUMBER = 4
    NAME = "Influences"
    ABOUT = (
        "Training documents ranked by their influence on the query. Helpful ones lowered its loss, "
        "harmful ones raised it; a score is how fast the loss changes with the document's weight."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "search", tooltip="List only documents that hold a text."),
        Binding("s", "direction", "direction", tooltip="All documents, helpful or harmful ones."),
        Binding("m", "aggregation", "aggregation", tooltip="Rank by sum, mean or strongest token."),
        Binding("Q", "query(1)", "query", tooltip="Next query."),
        Binding("right_square_bracket", "query(1)", show=False),
        Binding("left_square_bracket", "query(-1)", show=False, tooltip="Query before."),
        Binding("v", "beside", "versus", tooltip="Another query's scores beside these."),
        Binding("V", "next_beside", show=False, tooltip="Next query beside this one."),
        Binding("y", "copy", "copy", tooltip="Copy the marked documents, or the current one."),
        Binding("e", "export", "export", tooltip="Export the scores of all documents."),
        Binding("o", "pager", "pager", tooltip="Read the list in a pager."),
        Binding("colon", "go_to", "go to", show=False, tooltip="Go to a place, or a document."),
        Binding("escape", "back", show=False, tooltip="End the search, else go back."),
    ]

    def body(self) -> ComposeResult:
        """Query, what is listed, histogram, list, the current document."""
        yield Lines(3, id="facts")
        yield Lines(1, id="histogram")
        yield Lines(1, id="heads", classes="edge")
        yield RankedList(self._snippet)
        yield Lines(2, id="detail")
        yield Prompt()

    def on_mount(self) -> None:
        """Keys go to the list."""
        self.ranks.focus()

    def on_resize(self) -> None:
        """More lines for the histogram where there is room."""
        self.query_one("#histogram", Lines).styles.height = 5 if self.size.height >= _TALL else 1
        self.call_after_refresh(self._show_facts)

    def selection_changed(self, selection: Selection) -> None:
        """Rank the documents of the query."""
        make = functools.partial(making.rank, selection.query, self.view)
        self.read("ranking", make, self._take)

    def cli_equivalent(self) -> str:
        """``magic top``."""
        harmful = ["--harmful"] if self.view.direction == "harmful" else []
        count = max(10, self.ranks.size.height)
        return self.command("top", "-q", self.selection.query, "-k", count, *harmful)

    def cli_note(self) -> str:
        """The command prints one query by its whole scores."""
        view, lacks = self.view, []
        if self._searched is not None:
            lacks.append("the search")
        if view.beside is not None:
            lacks.append(f"query {view.beside} beside it")
        if view.aggregation != "sum":
            lacks.append(f"the order by {AGGREGATION_NAMES[view.aggregation]}")
        return f"without {' and '.join(lacks)}" if lacks else ""

    def disabled_reason(self, action: str) -> str | None:
        """What cannot be done now."""
        if self.explored is None:
            needs = (
                "search",
                "direction",
                "aggregation",
                "query",
                "beside",
                "copy",
                "export",
                "pager",
            )
            return "nothing has been read yet" if action in needs else None
        if action in ("query", "beside", "next_beside") and self.explored.queries == 1:
            return "this attribution has only one query"
        if action == "next_beside" and self.view.beside is None:
            return "no other query is shown; v shows one"
        if action == "aggregation":
            reasons = [self.explored.why_not_aggregation(m) for m in AGGREGATIONS[1:]]
            return reasons[0] if all(reasons) else None
        return None

    def action_search(self) -> None:
        """Ask for a text to search for."""
        before = self._searched.wanted if self._searched else ""
        self.query_one(Prompt).open("documents with:", before, self._search)

    def action_direction(self) -> None:
        """List the next of all, helpful or harmful documents."""
        place = DIRECTIONS.index(self.view.direction)
        self._change(direction=DIRECTIONS[(place + 1) % len(DIRECTIONS)])

    def action_aggregation(self) -> None:
        """Rank by the next figure that can be had."""
        assert self.explored is not None
        possible = [m for m in AGGREGATIONS if self.explored.why_not_aggregation(m) is None]
        place = possible.index(self.view.aggregation)
        self._change(aggregation=possible[(place + 1) % len(possible)])

    def action_query(self, step: int) -> None:
        """Look at another query."""
        self.select_query(step)

    def action_beside(self) -> None:
        """Show another query's scores beside, or no longer."""
        assert self.explored is not None
        following = (self.selection.query + 1) % self.explored.queries
        self._change(beside=following if self.view.beside is None else None)

    def action_next_beside(self) -> None:
        """Show the next query beside."""
        assert self.explored is not None and self.view.beside is not None
        following = (self.view.beside + 1) % self.explored.queries
        if following == self.selection.query:
            following = (following + 1) % self.explored.queries
        self._change(beside=following)

    def action_go_to(self) -> None:
        """Ask for a place in the list, or a document."""
        self.query_one(Prompt).open("place, or d and a document's id:", "", self._go_to)

    def action_back(self) -> None:
        """End the search, else go back."""
        if self._searched is not None:
            self._searched = None
            self.workers.cancel_group(self, "search")
            self._show_list(self.ranks.document)
        else:
            self.magic.action_out()

    @on(RankedList.Opened)
    def _open(self, event: RankedList.Opened) -> None:
        self.magic.select(document=event.document)
        self.magic.open_screen(5)

    @on(RankedList.Moved)
    def _moved(self, event: RankedList.Moved) -> None:
        ranked, document = self.ranked, self.ranks.document
        if ranked is None:
            return
        self._show_facts()
        if document is None or event.document != document:
            return
        if self.selection == self._shown_of:
            # The other screens show the document that the cursor stands on.
            self.select_quietly(document=document)
        self.read_more(
            "detail", functools.partial(making.settled, ranked.query, document), self._detail
        )

    @on(RankedList.Wanted)
    def _fetch(self, event: RankedList.Wanted) -> None:
        self.read_more("texts", functools.partial(self._load, event.documents), lambda _: None)

    def _snippet(self, document: int) -> str | None:
        return None if self.explored is None else self.explored.snippets.get(document)

    def _load(self, documents: Sequence[int], explored: ScoreBrowser) -> None:
        worker = get_current_worker()
        for start in range(0, len(documents), _AT_ONCE):
            part = documents[start : start + _AT_ONCE]
            explored.load_snippets(part)
            if not self.from_thread(worker, functools.partial(self.ranks.came, part)):
                return

    def _take(self, ranked: Ranked) -> None:
        before, self.ranked, self.view = self.ranked, ranked, ranked.view
        document = self.selection.document
        if before is not None and before.run != ranked.run:
            # The same numbers are other documents there.
            self._searched = None
            self.ranks.marked.clear()
        if before is not None and before.query != ranked.query and self.ranks.cursor == 0:
            # Who stands at the top wants to see the top.
            document = None
        self._detailed = None
        self._show_list(document)

    def _show_list(self, document: int | None) -> None:
        if self.ranked is None:
            return
        self.ranks.show(self._ranking(), self.ranked.other, document)
        self._show_facts()

    def _change(self, **changes: Any) -> None:
        self.view = replace(self.view, **changes)
        self.selection_changed(self.selection)

    def _detail(self, shown: DocumentScores | None) -> None:
        self._detailed = shown
        self._show_facts()

    def _search(self, wanted: str) -> None:
        self.workers.cancel_group(self, "search")
        self._searched = None
        if not wanted:
            self._show_list(self.ranks.document)
            return
        self._found(Found(wanted, np.zeros(0, np.int64)))
        self.read_more("search", functools.partial(self._look_for, wanted), self._found)

    def _look_for(self, wanted: str, explored: ScoreBrowser) -> Found:
        worker = get_current_worker()

        def tell(found: Found) -> bool:
            return self.from_thread(worker, functools.partial(self._found, found))

        return making.search(wanted, tell, explored)

    def _found(self, found: Found) -> None:
        kept = self.ranks.document if self._searched else None
        self._searched = found
        self._show_list(kept)

    def _go_to(self, place: str) -> None:
        kind, digits = place[:1] == "d", place.strip().lstrip("d").replace(",", "").strip()
        if not digits.isdecimal():
            self.magic.show_message(
                "a place is a number, a document d and its id, as d412", "warning"
            )
            return
        index = self._ranking().index(int(digits)) if kind else int(digits) - 1
        if index is None:
            self.magic.show_message(f"document {digits} is not in this list", "warning")
        else:
            self.ranks.go_to(index)
