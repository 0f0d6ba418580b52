"""Why: what moved a query, in sentences made from facts alone."""

import functools
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.worker import get_current_worker

from engine.runs.errors import MagicError
from engine.runs.lru import Recent
from engine.runs.run_folder import RunFolder
from magic_tui.explore.explore_screen import ExploringScreen
from magic_tui.explore.score_browser import ScoreBrowser
from magic_tui.explore.why import Why, read_why
from magic_tui.explore.why_lines import why_lines
from magic_tui.queries.candidates import Candidate, TextLosses, candidate_of, read_losses
from magic_tui.queries.query_loss_lines import loss_lines, note_lines
from magic_tui.widgets.selection import Selection
from magic_tui.widgets.text_pane import TextPane

_COPY_WIDTH = 100
_COMPUTING = "its tokens' losses are being computed: the trained model is loaded for it …"
_KEPT_LOSSES = 50

Asked = tuple[Path, Candidate]
"""A run and a text whose losses are asked for."""


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
        Binding("l", "losses", "losses", tooltip="The query's own tokens by loss, text by text."),
        Binding("y", "copy", "copy", tooltip="Copy all of this."),
        Binding("o", "pager", "pager", tooltip="Read all of this in a pager."),
    ]

    def __init__(self) -> None:
        """Nothing is read yet."""
        super().__init__()
        self.why: Why | None = None
        self._losses: Recent[Asked, TextLosses] = Recent(_KEPT_LOSSES)
        self._text = 0
        """Which of the query's texts is looked at."""
        self._pending: Asked | None = None
        self._refusal: tuple[Asked, str] | None = None

    def body(self) -> ComposeResult:
        """One text."""
        yield TextPane()

    def on_mount(self) -> None:
        """Keys go to the text."""
        self.query_one(TextPane).focus()

    def on_resize(self) -> None:
        """Wrap the sentences anew."""
        self.call_after_refresh(self._show)

    def selection_changed(self, selection: Selection) -> None:
        """Read the reasons."""
        self.read("why", functools.partial(_read, selection.query, selection.document), self._take)

    def clear(self) -> None:
        """Show nothing: what was shown is not what is selected."""
        self.why = None
        self.query_one(TextPane).show([], [])

    def cli_equivalent(self) -> str:
        """``magic top``, which lists the same documents."""
        return self.command("top", "-q", self.selection.query)

    def disabled_reason(self, action: str) -> str | None:
        """What cannot be done now."""
        if action in ("query", "losses", "copy", "pager", "open") and self.why is None:
            return "nothing has been read yet"
        if action == "query" and self.explored is not None and self.explored.queries == 1:
            return "this attribution has only one query"
        if action == "losses" and self._pending is not None:
            return "losses are being computed already"
        return None

    def action_query(self, step: int) -> None:
        """Look at another query."""
        self.select_query(step)

    def action_losses(self) -> None:
        """Have the losses of the query's own tokens computed, once; then those of its next text."""
        if self.why is None or self._pending is not None:
            return
        asked = self._asked()
        if asked is not None and self._losses.get(asked) is not None:
            self._text = (self._text + 1) % len(self.why.query.documents)
            asked = self._asked()
        if asked is None:
            return
        self.query_one(TextPane).scroll_to(y=0, animate=False)
        if self._losses.get(asked) is None:
            self._pending, self._refusal = asked, None
            self._compute(asked)
        self._show()

    def action_copy(self) -> None:
        """Copy all of this."""
        self.magic.copy(self._plain(_COPY_WIDTH), "why")

    def action_pager(self) -> None:
        """Read all of this in a pager."""
        self.magic.page(self._plain(self.size.width))

    @on(TextPane.Opened)
    def _open(self, event: TextPane.Opened) -> None:
        self.magic.select(document=event.document)
        self.magic.open_screen(5)

    def _take(self, why: Why) -> None:
        if self.why is None or self.why.query != why.query:
            self._text = 0
        self.why = why
        self._show()

    def _show(self) -> None:
        pane = self.query_one(TextPane)
        width = pane.scrollable_content_region.width
        if self.why is None or width < 10:
            return
        extra = self._loss_lines(width, self.magic.has_colour)
        lines = list(why_lines(self.why, width, self.magic.has_colour, extra))
        pane.show([line.text for line in lines], [line.document for line in lines])

    def _plain(self, width: int) -> str:
        if self.why is None:
            return ""
        extra = self._loss_lines(width, colour=False)
        lines = why_lines(self.why, width, False, extra)
        return "\n".join(line.text.plain.rstrip() for line in lines) + "\n"

    def _asked(self) -> Asked | None:
        if self.why is None or self.explored is None:
            return None
        text = self.why.query.documents[self._text]
        return self.explored.attribution.run.path, candidate_of(text)

    def _loss_lines(self, width: int, colour: bool) -> list[Text]:
        asked = self._asked()
        if asked is None or self.why is None:
            return []
        losses = self._losses.get(asked)
        if losses is not None:
            place = self._text, len(self.why.query.documents)
            return list(loss_lines(losses, place, width, colour))
        if self._refusal is not None and self._refusal[0] == asked:
            return note_lines(f"its tokens' losses: {self._refusal[1]}", width)
        return note_lines(_COMPUTING, width) if self._pending == asked else []

    @work(thread=True, exclusive=True, group="losses", exit_on_error=False)
    def _compute(self, asked: Asked) -> None:
        worker = get_current_worker()
        losses, refusal = None, ""
        try:
            losses = read_losses(RunFolder(asked[0]), asked[1])
        except (MagicError, OSError) as error:
            refusal = str(error)
        self.from_thread(worker, lambda: self._computed(asked, losses, refusal))

    def _computed(self, asked: Asked, losses: TextLosses | None, refusal: str) -> None:
        self._pending = None
        if losses is None:
            self._refusal = asked, refusal
        else:
            self._losses.put(asked, losses)
        self._show()
        self.refresh_bindings()


def _read(query: int, document: int | None, explored: ScoreBrowser) -> Why:
    return read_why(explored, query, document)
