"""Why: what moved a query, in sentences made from facts alone."""

import functools
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from magic_tui.client.explored import Explored
from magic_tui.client.why import Why, read_why
from magic_tui.render.why import why_lines
from magic_tui.screens.exploring import ExploringScreen
from magic_tui.selection import Selection
from magic_tui.widgets.pane import Pane

_COPY_WIDTH = 100


class WhyScreen(ExploringScreen):
    """The strongest documents of a query, when they acted, and how far to trust it."""

    NUMBER = 6
    NAME = "Why"
    ABOUT = (
        "What lowered and what raised the query's loss, in sentences made from the scores alone. "
        "Shared words are named apart: overlap is no influence."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("Q", "query(1)", "query", tooltip="Next query."),
        Binding("right_square_bracket", "query(1)", show=False),
        Binding("left_square_bracket", "query(-1)", show=False, tooltip="Query before."),
        Binding("y", "copy", "copy", tooltip="Copy all of this."),
        Binding("o", "pager", "pager", tooltip="Read all of this in a pager."),
    ]

    def __init__(self) -> None:
        """Nothing is read yet."""
        super().__init__()
        self.why: Why | None = None

    def body(self) -> ComposeResult:
        """One text."""
        yield Pane()

    def on_mount(self) -> None:
        """Keys go to the text."""
        self.query_one(Pane).focus()

    def on_resize(self) -> None:
        """Wrap the sentences anew."""
        self.call_after_refresh(self._show)

    def selection_changed(self, selection: Selection) -> None:
        """Read the reasons."""
        self.read("why", functools.partial(_read, selection.query, selection.document), self._take)

    def cli_equivalent(self) -> str:
        """``magic top``, which lists the same documents."""
        return self.command("top", "-q", self.selection.query)

    def why_not(self, action: str) -> str | None:
        """What cannot be done now."""
        if action in ("query", "copy", "pager", "open") and self.why is None:
            return "nothing has been read yet"
        if action == "query" and self.explored is not None and self.explored.queries == 1:
            return "this attribution has only one query"
        return None

    def action_query(self, step: int) -> None:
        """Look at another query."""
        self.select_query(step)

    def action_copy(self) -> None:
        """Copy all of this."""
        self.magic.copy(self._plain(), "why")

    def action_pager(self) -> None:
        """Read all of this in a pager."""
        self.magic.page(self._plain())

    @on(Pane.Opened)
    def _open(self, event: Pane.Opened) -> None:
        self.magic.select(document=event.document)
        self.magic.open_screen(5)

    def _take(self, why: Why) -> None:
        self.why = why
        self._show()

    def _show(self) -> None:
        pane = self.query_one(Pane)
        width = pane.scrollable_content_region.width
        if self.why is None or width < 10:
            return
        lines = list(why_lines(self.why, width, self.magic.has_colour))
        pane.show([line.text for line in lines], [line.document for line in lines])

    def _plain(self) -> str:
        if self.why is None:
            return ""
        lines = why_lines(self.why, _COPY_WIDTH, colour=False)
        return "\n".join(line.text.plain.rstrip() for line in lines) + "\n"


def _read(query: int, document: int | None, explored: Explored) -> Why:
    return read_why(explored, query, document)
