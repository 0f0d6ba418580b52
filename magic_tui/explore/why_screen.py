"""Screen 6, Why: a query's strongest documents in sentences derived from the scores."""

import functools
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from engine.runs.errors import MagicError
from engine.runs.lru import LRUCache
from engine.runs.run_folder import RunFolder
from magic_tui.explore.explore_screen import ScoreScreen
from magic_tui.explore.score_browser import ScoreBrowser
from magic_tui.explore.why import Line, Why, read_why, why_lines
from magic_tui.queries.candidates import Candidate, TextLosses, candidate_of, read_losses
from magic_tui.queries.loss_lines import loss_lines, note_lines
from magic_tui.widgets.selection import Selection
from magic_tui.widgets.virtual_list import VirtualList

_COPY_WIDTH = 100
_COMPUTING = "losses of its tokens: loading the trained model …"
_CACHED_LOSSES = 50

LossRequest = tuple[Path, Candidate]
"""A run and a text."""


class WhyText(VirtualList):
    """The lines of the screen; ``n`` and ``N`` jump between documents."""

    DEFAULT_CSS = """
    WhyText { scrollbar-gutter: stable; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "document(1)", show=False, tooltip="Next document."),
        Binding("N", "document(-1)", show=False, tooltip="Previous document."),
    ]

    def __init__(self) -> None:
        """No lines."""
        super().__init__()
        self._lines: list[Line] = []

    @property
    def document(self) -> int | None:
        """The document that the cursor's line is about."""
        above = (line.document for line in self._lines[self.cursor :: -1])
        return next((document for document in above if document is not None), None)

    def update(self, lines: list[Line]) -> None:
        """Replace the lines; the cursor stays on its document, else goes to the first one."""
        document, self._lines = self.document, lines
        starts = [index for index, line in enumerate(lines) if line.document is not None]
        same = [index for index in starts if lines[index].document == document]
        self.cursor = next(iter([*same, *starts]), 0)
        self.reload()

    def count(self) -> int:
        """Number of lines."""
        return len(self._lines)

    def line(self, index: int, width: int) -> Text:
        """One line."""
        return self._lines[index].text

    def action_document(self, step: int) -> None:
        """Move to the next or the previous document."""
        starts = [n for n, line in enumerate(self._lines) if line.document is not None]
        after = [n for n in starts if step * (n - self.cursor) > 0]
        if after:
            self.move_to(after[0] if step > 0 else after[-1])


class WhyScreen(ScoreScreen):
    """The strongest documents of a query, the steps at which they acted, and the verdict."""

    NUMBER = 6
    NAME = "Why"
    ABOUT = (
        "The most helpful and most harmful documents of the query, in sentences derived from the "
        "scores alone. Words shared with the query are listed separately: overlap is not influence."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("Q", "query(1)", "query", tooltip="Next query."),
        Binding("right_square_bracket", "query(1)", show=False),
        Binding("left_square_bracket", "query(-1)", show=False, tooltip="Previous query."),
        Binding("t", "losses", "tokens", tooltip="Losses of the query's tokens, text by text."),
        Binding("y", "copy", "copy", tooltip="Copy the text of this screen."),
        Binding("o", "pager", "pager", tooltip="Read the text in a pager."),
    ]

    def __init__(self) -> None:
        """An empty screen."""
        super().__init__()
        self.why: Why | None = None
        self._losses: LRUCache[LossRequest, TextLosses] = LRUCache(_CACHED_LOSSES)
        self._text = 0
        """Index of the query's text whose losses are shown."""
        self._pending: LossRequest | None = None
        self._failure: tuple[LossRequest, str] | None = None

    def body(self) -> ComposeResult:
        """The text."""
        yield WhyText()

    def on_mount(self) -> None:
        """Focus the text."""
        self.query_one(WhyText).focus()

    def on_resize(self) -> None:
        """Wrap the sentences again."""
        self.call_after_refresh(self._update)

    def selection_changed(self, selection: Selection) -> None:
        """Read the facts."""
        load = functools.partial(_read, selection.query, selection.document)
        self.read("why", load, self._show_why)

    def clear(self) -> None:
        """Empty the screen."""
        self.why = None
        self.query_one(WhyText).update([])

    def cli_equivalent(self) -> str:
        """``magic top`` lists the same documents."""
        return self.command("top", "-q", self.selection.query)

    def disabled_reason(self, action: str) -> str | None:
        """Most actions need the facts."""
        if action in ("query", "losses", "copy", "pager", "choose") and self.why is None:
            return "no scores have been read yet"
        if action == "query":
            return self.only_one_query()
        if action == "losses" and self._pending is not None:
            return "losses are being computed already"
        return None

    def action_query(self, step: int) -> None:
        """Select another query."""
        self.select_query(step)

    def action_losses(self) -> None:
        """Compute the losses of the query's tokens; once known, those of its next text."""
        if self.why is None or self._pending is not None:
            return
        request = self._request()
        if request is not None and self._losses.get(request) is not None:
            self._text = (self._text + 1) % len(self.why.query.documents)
            request = self._request()
        if request is None:
            return
        if self._losses.get(request) is None:
            self._pending, self._failure = request, None
            self._compute(request)
        self._update()
        self.query_one(WhyText).move_to(0)

    def action_copy(self) -> None:
        """Copy the text."""
        self.magic.copy(self._plain(_COPY_WIDTH), "why")

    def action_pager(self) -> None:
        """Show the text in a pager."""
        self.magic.page(self._plain(self.size.width))

    @on(VirtualList.Chosen)
    def _open(self) -> None:
        document = self.query_one(WhyText).document
        if document is None:
            self.magic.show_message("no document here; n goes to the next one", "warning")
        else:
            self.open_document(document)

    def _show_why(self, why: Why) -> None:
        if self.why is None or self.why.query != why.query:
            self._text = 0
        self.why = why
        self._update()

    def _update(self) -> None:
        text = self.query_one(WhyText)
        width = text.line_width - 2
        if self.why is None or width < 10:
            return
        losses = self._loss_lines(width, self.magic.has_colour)
        text.update(list(why_lines(self.why, width, self.magic.has_colour, losses)))

    def _plain(self, width: int) -> str:
        if self.why is None:
            return ""
        losses = self._loss_lines(width, colour=False)
        lines = why_lines(self.why, width, False, losses)
        return "\n".join(line.text.plain.rstrip() for line in lines) + "\n"

    def _request(self) -> LossRequest | None:
        if self.why is None or self.browser is None:
            return None
        text = self.why.query.documents[self._text]
        return self.browser.attribution.run.path, candidate_of(text)

    def _loss_lines(self, width: int, colour: bool) -> list[Text]:
        request = self._request()
        if request is None or self.why is None:
            return []
        losses = self._losses.get(request)
        if losses is not None:
            place = self._text, len(self.why.query.documents)
            return list(loss_lines(losses, place, width, colour))
        if self._failure is not None and self._failure[0] == request:
            return note_lines(f"losses of its tokens: {self._failure[1]}", width)
        return note_lines(_COMPUTING, width) if self._pending == request else []

    @work(thread=True, exclusive=True, group="losses", exit_on_error=False)
    def _compute(self, request: LossRequest) -> None:
        losses, problem = None, ""
        try:
            losses = read_losses(RunFolder(request[0]), request[1])
        except (MagicError, OSError) as error:
            problem = str(error)
        self.call_from_worker(self._computed, request, losses, problem)

    def _computed(self, request: LossRequest, losses: TextLosses | None, problem: str) -> None:
        self._pending = None
        if losses is None:
            self._failure = request, problem
        else:
            self._losses.put(request, losses)
        self._update()
        self.refresh_bindings()


def _read(query: int, document: int | None, browser: ScoreBrowser) -> Why:
    return read_why(browser, query, document)
