"""Document: a training document, its tokens coloured by their effect on the query."""

import functools
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from magic_tui.explore.document_lines import (
    document_line,
    legend_line,
    plain_document,
    strongest_lines,
    token_line,
    tokens_csv,
)
from magic_tui.explore.document_view import Sheet, find_piece, neighbour, read_sheet
from magic_tui.explore.explore_screen import ExploringScreen
from magic_tui.explore.influences_lines import query_line
from magic_tui.explore.show_lines import STRONGEST, colours
from magic_tui.explore.token_text import TokenText
from magic_tui.text.numbers import count_text
from magic_tui.text.tokens import NO_COLOURS
from magic_tui.widgets.lines import Lines
from magic_tui.widgets.prompt import Prompt
from magic_tui.widgets.selection import Selection

_AROUND = 6
"""Lines of the screen that are not the text's."""


class DocumentScreen(ExploringScreen):
    """One document next to one query."""

    NUMBER = 5
    NAME = "Document"
    ABOUT = (
        "A training document. Blue tokens helped the query: learning to predict what follows them "
        "lowered its loss. Orange ones harmed it. The exact score stands below."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("Q", "query(1)", "query", tooltip="Next query, same document."),
        Binding("right_square_bracket", "query(1)", show=False),
        Binding("left_square_bracket", "query(-1)", show=False, tooltip="Query before."),
        Binding("J", "ranked(1)", "next", tooltip="Next document in the ranking."),
        Binding("K", "ranked(-1)", show=False, tooltip="Document before in the ranking."),
        Binding("s", "scale", "scale", tooltip="Colours relative to this document, or to all."),
        Binding("m", "marks", "marks", tooltip="Signs below the tokens: = - + #."),
        Binding("slash", "search", "search", tooltip="Find a text in this document."),
        Binding("y", "copy", "copy", tooltip="Copy the document and its strongest tokens."),
        Binding("e", "export", "export", tooltip="Export the tokens and their scores."),
        Binding("o", "pager", "pager", tooltip="Read the document in a pager."),
        Binding("colon", "go_to", "go to", show=False, tooltip="Go to a document by its id."),
        Binding("w", "screen(6)", show=False, tooltip="Why: the facts in sentences."),
    ]

    def __init__(self) -> None:
        """Nothing is read yet."""
        super().__init__()
        self.sheet: Sheet | None = None
        self._all = False
        self._marks: bool | None = None
        self._sought = ""

    def body(self) -> ComposeResult:
        """Query and document, the text, the token under the cursor."""
        yield Lines(2, id="facts")
        yield TokenText()
        yield Lines(0, id="strongest")
        yield Lines(2, id="token")
        yield Prompt()

    def clear(self) -> None:
        """Show nothing: what was shown is not what is selected."""
        self.sheet = None
        self.paper.show([], NO_COLOURS, False)
        for lines in self.query(Lines):
            lines.show([])

    @property
    def paper(self) -> TokenText:
        """The text."""
        return self.query_one(TokenText)

    def on_mount(self) -> None:
        """Keys go to the text."""
        self.paper.focus()

    def on_resize(self) -> None:
        """Fit the lines around the text anew."""
        self.call_after_refresh(self._show_facts)

    def selection_changed(self, selection: Selection) -> None:
        """Read the document."""
        make = functools.partial(read_sheet, selection.query, selection.document, self._all)
        self.read("document", make, self._take)

    def cli_equivalent(self) -> str:
        """``magic show``."""
        document = self.selection.document
        if document is None and self.sheet is not None:
            document = self.sheet.shown.document
        return self.command("show", 0 if document is None else document, "-q", self.selection.query)

    def disabled_reason(self, action: str) -> str | None:
        """What cannot be done now."""
        if action in ("cli", "out", "help", "quit", "screen", "go_to"):
            return None
        if self.sheet is None or self.explored is None:
            return "no document has been read yet"
        if action == "query" and self.explored.queries == 1:
            return "this attribution has only one query"
        if action in ("scale", "marks", "strong") and self.sheet.shown.scores is None:
            return "this attribution keeps no scores of tokens (granularity: document)"
        return None

    def action_query(self, step: int) -> None:
        """Look at the same document for another query."""
        self.select_query(step)

    def action_ranked(self, step: int) -> None:
        """Look at the next document in the ranking of the query."""
        if self.sheet is None:
            return
        make = functools.partial(neighbour, self.selection.query, self.sheet.shown.document, step)
        self.read_more("neighbour", make, self._go)

    def action_scale(self) -> None:
        """Colours relative to this document's strongest token, or to those of all."""
        self._all = not self._all
        self.selection_changed(self.selection)

    def action_marks(self) -> None:
        """Signs below the tokens, or none."""
        self._marks = not self.paper.marks
        if self.sheet is not None:
            self._take(self.sheet)

    def action_search(self) -> None:
        """Ask for a text to find."""
        self.query_one(Prompt).open("find:", self._sought, self._search)

    def action_go_to(self) -> None:
        """Ask for a document."""
        self.query_one(Prompt).open("document's id:", "", self._go_to)

    def action_copy(self) -> None:
        """Copy the document as it would be printed."""
        if self.sheet is not None:
            self.magic.copy(plain_document(self.sheet.shown), "document")

    def action_pager(self) -> None:
        """Read the document in a pager."""
        if self.sheet is not None:
            self.magic.page(plain_document(self.sheet.shown, self.size.width))

    def action_export(self) -> None:
        """Ask where to write the tokens."""
        if self.sheet is not None:
            shown = self.sheet.shown
            name = f"{shown.run}-{shown.attribution}-document-{shown.document}.csv"
            self.query_one(Prompt).open("new csv file:", str(Path(name).absolute()), self._export)

    def action_screen(self, number: int) -> None:
        """Go to a screen."""
        self.magic.open_screen(number)

    @on(TokenText.Moved)
    def _moved(self) -> None:
        self._show_token()

    def _take(self, sheet: Sheet) -> None:
        self.sheet = sheet
        colour = self.magic.has_colour
        marks = not colour if self._marks is None else self._marks
        marks = marks and sheet.shown.scores is not None
        self.paper.show(sheet.shown.marked_pieces, colours(sheet.shown, sheet.scale), marks)
        self._show_facts()

    def _show_facts(self) -> None:
        if self.sheet is None:
            return
        shown, width = self.sheet.shown, self.size.width - 2
        lines = [
            query_line(shown.query, shown.queries, width),
            document_line(shown, width),
        ]
        self.query_one("#facts", Lines).show(lines)
        # Where the text leaves room, its strongest tokens are listed below it.
        room = self.size.height - _AROUND - self.paper.height
        count = 0 if shown.scores is None else min(STRONGEST, room - 2)
        strongest = self.query_one("#strongest", Lines)
        listed = strongest_lines(shown, width, count)
        strongest.styles.height = len(listed)
        strongest.show(listed)
        self._show_token()

    def _show_token(self) -> None:
        if self.sheet is None:
            return
        shown, width = self.sheet.shown, self.size.width - 2
        cursor = min(self.paper.cursor, len(shown.pieces) - 1)
        lines = [
            token_line(shown, cursor, width),
            legend_line(shown, self.sheet.scale, self.magic.has_colour, width),
        ]
        self.query_one("#token", Lines).show(lines)

    def _search(self, wanted: str) -> None:
        self._sought = wanted
        if self.sheet is None or not wanted:
            return
        piece = find_piece(self.sheet.shown, wanted, self.paper.cursor)
        if piece is None:
            self.magic.show_message(f"“{wanted}” is not in this document", "warning")
        else:
            self.paper.go_to(piece)

    def _go_to(self, answer: str) -> None:
        digits, sheet = answer.strip().lstrip("d").replace(",", ""), self.sheet
        if not digits.isdecimal():
            self.magic.show_message("a document's id is a number", "warning")
        elif sheet is not None and int(digits) >= sheet.shown.documents:
            last = count_text(sheet.shown.documents - 1)
            self.magic.show_message(
                f"the run has no document {digits}; there are 0 to {last}", "warning"
            )
        else:
            self._go(int(digits))

    def _go(self, document: int) -> None:
        self.magic.select(document=document)

    def _export(self, answer: str) -> None:
        if self.sheet is None or not answer.strip():
            return
        path = Path(answer.strip()).expanduser().absolute()
        text = tokens_csv(self.sheet.shown)
        try:
            with open(path, "x", encoding="utf-8", newline="") as file:
                file.write(text)
        except OSError as error:
            self.magic.show_message(f"{path}: {error.strerror}", "warning")
            return
        self.magic.show_message(f"written to {path}")
