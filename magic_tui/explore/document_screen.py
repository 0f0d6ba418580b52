"""Screen 5, Document: a training document with its tokens shaded by their effect on the query."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from engine.runs.errors import UsageError
from engine.scores.document import DocumentScores
from magic_tui.explore.document_lines import (
    STRONGEST,
    document_line,
    legend_line,
    plain_document,
    shading_of,
    strongest_lines,
    token_line,
    tokens_csv,
)
from magic_tui.explore.explore_screen import ScoreScreen
from magic_tui.explore.influences import query_line
from magic_tui.explore.score_browser import ScoreBrowser
from magic_tui.text.numbers import count_text
from magic_tui.text.tokens import unshaded
from magic_tui.widgets.lines import Lines
from magic_tui.widgets.prompt import Prompt
from magic_tui.widgets.selection import Selection
from magic_tui.widgets.token_text import TokenText

_OTHER_LINES = 6
"""Lines of the screen around the text."""


@dataclass(frozen=True)
class Page:
    """A document and the scale of its shading; None for its own strongest token."""

    document: DocumentScores
    scale: float | None


class DocumentScreen(ScoreScreen):
    """One document and one query."""

    NUMBER = 5
    NAME = "Document"
    ABOUT = (
        "A training document. Blue tokens are helpful: learning to predict what follows them "
        "lowered the query's loss. Orange tokens are harmful. The line below the text shows the "
        "exact score of the token under the cursor."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("Q", "query(1)", "query", tooltip="Next query, same document."),
        Binding("right_square_bracket", "query(1)", show=False),
        Binding("left_square_bracket", "query(-1)", show=False, tooltip="Previous query."),
        Binding("J", "ranked(1)", "next", tooltip="Next document in the ranking."),
        Binding("K", "ranked(-1)", show=False, tooltip="Previous document in the ranking."),
        Binding("s", "scale", "scale", tooltip="Scale: this document, or all documents."),
        Binding("m", "marks", "marks", tooltip="Marks below the tokens: = - + #."),
        Binding("slash", "search", "search", tooltip="Find a text in this document."),
        Binding("y", "copy", "copy", tooltip="Copy the document and its strongest tokens."),
        Binding("e", "export", "export", tooltip="Export tokens and scores as CSV."),
        Binding("o", "pager", "pager", tooltip="Read the document in a pager."),
        Binding("colon", "go_to", "go to", show=False, tooltip="Go to a document by its id."),
        Binding("w", "screen(6)", show=False, tooltip="Open Why."),
    ]

    def __init__(self) -> None:
        """An empty screen."""
        super().__init__()
        self.page: Page | None = None
        self._common_scale = False
        self._marks: bool | None = None
        """None: marks only on terminals without colour."""
        self._wanted = ""

    def body(self) -> ComposeResult:
        """Query and document, text, strongest tokens, token under the cursor."""
        yield Lines(2, id="facts")
        yield TokenText()
        yield Lines(0, id="strongest")
        yield Lines(2, id="token")
        yield Prompt()

    @property
    def text(self) -> TokenText:
        """The text widget."""
        return self.query_one(TokenText)

    def clear(self) -> None:
        """Empty the screen."""
        self.page = None
        self.text.update([], unshaded(0), False)
        for lines in self.query(Lines):
            lines.update([])

    def on_mount(self) -> None:
        """Focus the text."""
        self.text.focus()

    def on_resize(self) -> None:
        """Fit the lines around the text."""
        self.call_after_refresh(self._update_facts)

    def selection_changed(self, selection: Selection) -> None:
        """Read the document."""
        query, document = selection.query, selection.document
        load = functools.partial(read_page, query, document, self._common_scale)
        self.read("document", load, self._show_page)

    def cli_equivalent(self) -> str:
        """``magic show``."""
        document = self.selection.document
        if document is None and self.page is not None:
            document = self.page.document.document
        return self.command("show", 0 if document is None else document, "-q", self.selection.query)

    def disabled_reason(self, action: str) -> str | None:
        """Most actions need a document."""
        if action in ("cli", "out", "help", "quit", "screen", "go_to"):
            return None
        if self.page is None or self.browser is None:
            return "no document has been read yet"
        if action == "query":
            return self.only_one_query()
        if action in ("scale", "marks", "strong") and self.page.document.scores is None:
            return "this attribution has no token scores (granularity: document)"
        return None

    def action_query(self, step: int) -> None:
        """Show the same document for another query."""
        self.select_query(step)

    def action_ranked(self, step: int) -> None:
        """Show another document of the ranking."""
        if self.page is not None:
            current = self.page.document.document
            load = functools.partial(neighbour, self.selection.query, current, step)
            self.read_more("neighbour", load, self._select)

    def action_scale(self) -> None:
        """Switch between the document's own scale and the common one."""
        self._common_scale = not self._common_scale
        self.selection_changed(self.selection)

    def action_marks(self) -> None:
        """Show or hide the marks."""
        self._marks = not self.text.marks
        if self.page is not None:
            self._show_page(self.page)

    def action_search(self) -> None:
        """Prompt for a text to find."""
        self.query_one(Prompt).open("find:", self._wanted, self._search)

    def action_go_to(self) -> None:
        """Prompt for a document."""
        self.query_one(Prompt).open("document id:", "", self._go_to)

    def action_copy(self) -> None:
        """Copy the document as plain text."""
        if self.page is not None:
            self.magic.copy(plain_document(self.page.document), "document")

    def action_pager(self) -> None:
        """Show the document in a pager."""
        if self.page is not None:
            self.magic.page(plain_document(self.page.document, self.size.width))

    def action_export(self) -> None:
        """Prompt for a CSV file."""
        if self.page is not None:
            document = self.page.document
            name = f"{document.run}-{document.attribution}-document-{document.document}.csv"
            self.query_one(Prompt).open("new CSV file:", str(Path(name).absolute()), self._export)

    def action_screen(self, number: int) -> None:
        """Open another screen."""
        self.magic.open_screen(number)

    @on(TokenText.Moved)
    def _moved(self) -> None:
        self._update_token()

    def _show_page(self, page: Page) -> None:
        self.page = page
        document = page.document
        marks = not self.magic.has_colour if self._marks is None else self._marks
        marks = marks and document.scores is not None
        texts = [piece.text for piece in document.marked_pieces]
        self.text.update(texts, shading_of(document, page.scale), marks)
        self._update_facts()

    def _update_facts(self) -> None:
        if self.page is None:
            return
        document, width = self.page.document, self.size.width - 2
        lines = [
            query_line(document.query, document.queries, width),
            document_line(document, width),
        ]
        self.query_one("#facts", Lines).update(lines)
        # The strongest tokens fill the room below a short text.
        room = self.size.height - _OTHER_LINES - self.text.text_height - 2
        count = 0 if document.scores is None else min(STRONGEST, room)
        listed = list(strongest_lines(document, width, count)) if count > 0 else []
        strongest = self.query_one("#strongest", Lines)
        strongest.styles.height = len(listed)
        strongest.update(listed)
        self._update_token()

    def _update_token(self) -> None:
        if self.page is None:
            return
        document, width = self.page.document, self.size.width - 2
        cursor = min(self.text.cursor, len(document.pieces) - 1)
        lines = [
            token_line(document, cursor, width),
            legend_line(document, self.page.scale, self.magic.has_colour, width),
        ]
        self.query_one("#token", Lines).update(lines)

    def _search(self, wanted: str) -> None:
        self._wanted = wanted
        if self.page is None or not wanted:
            return
        piece = find_piece(self.page.document, wanted, self.text.cursor)
        if piece is None:
            self.magic.show_message(f"“{wanted}” is not in this document", "warning")
        else:
            self.text.go_to(piece)

    def _go_to(self, answer: str) -> None:
        digits, page = answer.strip().lstrip("d").replace(",", ""), self.page
        if not digits.isdecimal():
            self.magic.show_message("a document id is a number", "warning")
        elif page is not None and int(digits) >= page.document.documents:
            last = count_text(page.document.documents - 1)
            message = f"there is no document {digits}; ids run from 0 to {last}"
            self.magic.show_message(message, "warning")
        else:
            self._select(int(digits))

    def _select(self, document: int) -> None:
        self.magic.select(document=document)

    def _export(self, answer: str) -> None:
        if self.page is None or not answer.strip():
            return
        path = Path(answer.strip()).expanduser().absolute()
        text = tokens_csv(self.page.document)
        try:
            with open(path, "x", encoding="utf-8", newline="") as file:
                file.write(text)
        except OSError as error:
            self.magic.show_message(f"{path}: {error.strerror}", "warning")
        else:
            self.magic.show_message(f"written to {path}")


def read_page(query: int, document: int | None, common: bool, browser: ScoreBrowser) -> Page:
    """Read a document, by default the strongest; ``common`` requests the common scale.

    Raises:
        UsageError: if there is no such document.
    """
    if document is None:
        strongest = browser.ranking(query).order[:1]
        if not len(strongest):
            raise UsageError("this run has no documents")
        document = int(strongest[0])
    scale = browser.scale(query) if common and browser.has_tokens else None
    return Page(browser.document(query, document), scale)


def neighbour(query: int, document: int, step: int, browser: ScoreBrowser) -> int:
    """The document ``step`` places after another one in the ranking."""
    ranking = browser.ranking(query)
    place = ranking.index(document) or 0
    return int(ranking.order[min(max(0, place + step), len(ranking) - 1)])


def find_piece(document: DocumentScores, wanted: str, after: int) -> int | None:
    """The next piece after ``after`` at which a text begins, wrapping around; ignores case."""
    text = "".join(piece.text for piece in document.pieces).lower()
    stops: list[int] = []
    end = 0
    for piece in document.pieces:
        end += len(piece.text.lower())
        stops.append(end)
    start = text.find(wanted.lower(), stops[after] if after < len(stops) else 0)
    if start < 0:
        start = text.find(wanted.lower())
    if start < 0:
        return None
    return next((piece for piece, stop in enumerate(stops) if stop > start), None)
