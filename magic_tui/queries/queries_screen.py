"""What to ask: texts asked before, of any file, or typed; their losses; the basket and its cost."""

from typing import ClassVar

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from engine.runs.naming import runs_folder
from engine.runs.safe_text import safe_text
from magic_tui.queries.basket import attribute_command
from magic_tui.queries.candidate_list import CandidateList
from magic_tui.queries.candidates import Candidate, why_not_ask
from magic_tui.queries.loss_lines import basket_lines, source_text
from magic_tui.queries.loss_text import LossText
from magic_tui.queries.query_worker import BASKET, TYPED, AskingScreen
from magic_tui.text.cells import fit
from magic_tui.widgets.line_list import LineList
from magic_tui.widgets.lines import Lines
from magic_tui.widgets.prompt import Prompt
from magic_tui.widgets.selection import Selection

_LOSSES_HINT = "t: its tokens with their losses under the trained model"
_COMPUTING = "its losses are being computed: the trained model is loaded for it …"
_FILTERED_CHARACTERS = 2000


class QueriesScreen(AskingScreen):
    """Screen 3."""

    NUMBER, NAME = 3, "Queries"
    ABOUT = (
        "Texts to ask the kept trajectory about: those asked before, those of a file, or typed "
        "ones. Put some into the basket, see what asking takes, and ask: nothing is retrained."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "basket", tooltip="Put the text into the basket, or take it out."),
        Binding("a", "ask", "ask", tooltip="Ask what is in the basket; goes to Live."),
        Binding("i", "type", "type", tooltip="Type a text to ask about."),
        Binding("t", "tokens", "tokens", tooltip="The text's tokens with their losses."),
        Binding("f", "file", "file", tooltip="Browse the texts of a file or data set."),
        Binding("s", "source", "other texts", tooltip="Show the texts of the next origin."),
        Binding("b", "basket", "show basket", show=False, tooltip="Show what is in the basket."),
        Binding("r", "reduction", "reduction", show=False, tooltip="Each alone, mean or sum."),
        Binding("x", "clear", "empty", show=False, tooltip="Empty the basket."),
        Binding("slash", "filter", "filter", tooltip="Only texts that hold a word."),
        Binding("colon", "go_to", "go to", show=False, tooltip="Go to a text by its number."),
        Binding("y", "copy", "copy", show=False, tooltip="Copy the text."),
        Binding("o", "pager", "pager", show=False, tooltip="Read the text in $PAGER."),
    ]
    DEFAULT_CSS = """
    QueriesScreen #source { color: $text-muted; }
    QueriesScreen #basket { background: $surface; }
    QueriesScreen LossText { height: 40%; min-height: 5; }
    """

    def __init__(self) -> None:
        """Nothing is shown yet."""
        super().__init__()
        self._source = ""
        self._filter = ""

    def body(self) -> ComposeResult:
        """Where the texts are from, the texts, one of them in full, the basket, a prompt."""
        yield Lines(id="source")
        yield CandidateList(lambda candidate: candidate in self.basket)
        yield LossText()
        yield Lines(2, id="basket")
        yield Prompt()

    def selection_changed(self, selection: Selection) -> None:
        """Read what the run was asked before."""
        if selection.attribution is not None:
            self._source = f"asked in {selection.attribution}"
        self.load(selection)

    @property
    def current(self) -> Candidate | None:
        """The text under the cursor."""
        return self.query_one(CandidateList).current

    def cli_equivalent(self) -> str:
        """The command that asks what is in the basket, or the text under the cursor."""
        chosen = list(self.basket) or ([self.current] if self.current else [])
        folder = self.selection.runs_dir
        elsewhere = None if folder == runs_folder(None).absolute() else str(folder)
        run = self.run.id if self.run is not None else "RUN"
        return attribute_command(run, chosen, self.basket.reduction, elsewhere)

    def disabled_reason(self, action: str) -> str | None:
        """Why a key does nothing now."""
        if action in ("ask", "clear", "basket", "reduction") and not len(self.basket):
            return "the basket is empty: put texts in with space"
        if action in ("ask", "tokens") and self.run is None:
            return "there is no run to ask: choose one in screen 1"
        if action in ("ask", "tokens") and not (self.known and self.known.kept):
            return "it keeps no complete trajectory: wait until it is trained, or train it again"
        if action == "ask" and self.asking:
            return "the engine is being asked already"
        needs_text = ("mark", "tokens", "copy", "pager", "filter", "go_to")
        if action in needs_text and not self.texts_of(self._source):
            return "there is no text here: type one with i, or open a file with f"
        if action == "source" and len(self.names()) < 2:
            return "there are no other texts: type one with i, or open a file with f"
        return None

    def action_mark(self) -> None:
        """Put the text under the cursor into the basket, or take it out, and go on."""
        if self.current is not None:
            self.basket.toggle(self.current)
            if self._source != BASKET:
                self.query_one(CandidateList).action_move(1)
            self.basket_changed()

    def action_clear(self) -> None:
        """Empty the basket."""
        self.basket.clear()
        self.basket_changed()

    def action_reduction(self) -> None:
        """Change between scores of each text, of their mean and of their sum."""
        self.basket.turn_reduction()
        self.basket_changed()

    def action_type(self) -> None:
        """Ask for a text."""
        self.query_one(Prompt).open("text", "", self._typed)

    def action_file(self) -> None:
        """Ask for query data."""
        self.query_one(Prompt).open("file [column, or prompt,completion]", "", self.name_file)

    def action_filter(self) -> None:
        """Show only texts that hold what is typed."""
        self.query_one(Prompt).open("filter", self._filter, self._filtered, self._filtered)

    def action_go_to(self) -> None:
        """Ask for a number."""
        self.query_one(Prompt).open("go to text, counted from 1", "", self._go_to)

    def action_source(self) -> None:
        """Show the texts of the next origin."""
        names = self.names()
        place = names.index(self._source) + 1 if self._source in names else 0
        self.show_source(names[place % len(names)])

    def action_basket(self) -> None:
        """Show what is in the basket."""
        self.show_source(BASKET)

    def action_tokens(self) -> None:
        """Show the losses of the text under the cursor."""
        current = self.current
        if current is None or self.run is None:
            return
        self.query_one(LossText).focus()
        if self.known_losses(current) is None:
            self.pending = current.key
            self.compute_losses(self.run, current)
            self._show_text()

    def action_ask(self) -> None:
        """Queue an attribution of what is in the basket."""
        if self.run is not None:
            self.asking = True
            self.refresh_bindings()
            self.launch(self.run.id, list(self.basket), self.basket.reduction)

    def action_copy(self) -> None:
        """Copy the text under the cursor."""
        if self.current is not None:
            self.magic.copy(self.current.text, "text")

    def action_pager(self) -> None:
        """Read the text under the cursor in the pager."""
        if self.current is not None:
            self.magic.page(safe_text(self.current.text, keep_newlines=True))

    def on_resize(self, event: events.Resize) -> None:
        """Draw in another width."""
        self.show_all()

    @on(LineList.Moved)
    def _moved(self) -> None:
        self._show_text()

    @on(LineList.Chosen)
    async def _chosen(self) -> None:
        current = self.current
        if current is not None and current.asked is not None:
            attribution, query = current.asked
            self.magic.select(attribution=attribution, query=query)
            self.magic.open_screen(4)
        elif current is not None:
            await self.app.run_action("screen.tokens")

    def _shown(self) -> list[Candidate]:
        every, wanted = self.texts_of(self._source), self._filter.casefold()
        if not wanted:
            return every
        return [each for each in every if wanted in each.text[:_FILTERED_CHARACTERS].casefold()]

    def show_all(self) -> None:
        """Draw everything anew."""
        if self._source not in self.names():
            self._source = next(iter(self.names()), "")
        candidates = self.query_one(CandidateList)
        candidates.show(self._shown())
        width, source = self.size.width - 2, self.sources.get(self._source)
        known, total = len(self.texts_of(self._source)), source.total if source else 0
        about = source_text(self._source, candidates.count(), known, total, self._filter)
        self.query_one("#source", Lines).show([Text(fit(self.note or about, width), end="")])
        basket = basket_lines(len(self.basket), self.basket.reduction, self.cost, width)
        self.query_one("#basket", Lines).show(list(basket))
        self._show_text()
        self.refresh_bindings()

    def show_source(self, name: str) -> None:
        """Show the texts of one origin."""
        self._source, self._filter = name, ""
        self.show_all()
        self.query_one(CandidateList).move_to(0)

    def _show_text(self) -> None:
        current = self.current
        if current is None:
            self.query_one(LossText).show("", None)
            return
        hint = _LOSSES_HINT if self.disabled_reason("tokens") is None else ""
        hint = _COMPUTING if self.pending == current.key else hint
        text = current.shown or current.text
        self.query_one(LossText).show(text, self.known_losses(current), hint)

    def _typed(self, text: str) -> None:
        self.show_key_problem(why_not_ask(text))
        if why_not_ask(text) or not text.strip():
            return
        place = self.add_typed(Candidate(text))
        self.show_source(TYPED)
        self.query_one(CandidateList).move_to(place)
        self.basket_changed()

    def _filtered(self, text: str) -> None:
        self._filter = text.strip()
        self.show_all()
        self.query_one(CandidateList).move_to(0)

    def _go_to(self, text: str) -> None:
        if text.strip().isdigit():
            self.query_one(CandidateList).move_to(int(text) - 1)
