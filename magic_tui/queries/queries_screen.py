"""Screen 3, Queries: choose texts, inspect their token losses, submit an attribution."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.worker import get_current_worker

from engine.cost.attribution_cost import AttributionCost
from engine.runs.errors import MagicError
from engine.runs.listing import find_run
from engine.runs.lru import LRUCache
from engine.runs.paths import runs_folder
from engine.runs.run_folder import RunFolder
from engine.runs.safe_text import one_line, safe_text
from magic_tui.queries.basket import Basket, attribute_command, load_basket, save_basket
from magic_tui.queries.candidates import (
    Candidate,
    TextLosses,
    read_losses,
    request_of,
    text_problem,
)
from magic_tui.queries.check_queries import submit_checked
from magic_tui.queries.loss_lines import basket_lines, candidate_line, loss_shading, source_text
from magic_tui.queries.query_cost import query_cost
from magic_tui.queries.sources import (
    RunQueries,
    Source,
    parse_source,
    read_run_queries,
    read_source,
    source_name,
    with_results,
)
from magic_tui.text.cells import fit
from magic_tui.text.numbers import loss_text
from magic_tui.text.tokens import loss_legend, unshaded
from magic_tui.widgets.lines import Lines
from magic_tui.widgets.prompt import Prompt
from magic_tui.widgets.screen import MagicScreen
from magic_tui.widgets.selection import Selection
from magic_tui.widgets.token_text import TokenText
from magic_tui.widgets.virtual_list import VirtualList

BASKET, TYPED = "basket", "typed here"
_LOSSES_HINT = "t: its tokens with their losses under the trained model"
_COMPUTING = "computing its losses: loading the trained model …"
_FILTERED_CHARACTERS = 2000
_SHOWN_CHARACTERS = 20_000
"""Characters of a text shown before its losses are known."""
_CACHED_LOSSES = 200
_RETRY_SECONDS = 3.0


class CandidateList(VirtualList):
    """Texts, one per line."""

    def __init__(self, in_basket: Callable[[Candidate], bool]) -> None:
        """An empty list; ``in_basket`` returns whether a text is in the basket."""
        super().__init__()
        self._in_basket = in_basket
        self._candidates: Sequence[Candidate] = ()
        self._has_losses = False

    def update(self, candidates: Sequence[Candidate]) -> None:
        """Show other texts."""
        self._candidates = candidates
        self._has_losses = any(each.after is not None for each in candidates[:100])
        self.reload()

    @property
    def current(self) -> Candidate | None:
        """The text under the cursor."""
        return self._candidates[self.cursor] if self._candidates else None

    def count(self) -> int:
        """Number of texts."""
        return len(self._candidates)

    def line(self, index: int, width: int) -> Text:
        """One text."""
        candidate = self._candidates[index]
        return candidate_line(candidate, self._in_basket(candidate), width, self._has_losses)


class QueriesScreen(MagicScreen):
    """Texts by source, one of them in full, and the basket with its cost."""

    NUMBER = 3
    NAME = "Queries"
    ABOUT = (
        "Texts to attribute: queries of earlier attributions, texts of a file, or typed ones. Add "
        "texts to the basket, see what the attribution costs, and submit it. The stored trajectory "
        "is replayed; nothing is retrained."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "basket", tooltip="Add the text to the basket, or remove it."),
        Binding("a", "attribute", "attribute", tooltip="Attribute the basket; opens Live."),
        Binding("i", "type", "type", tooltip="Type a text."),
        Binding("t", "tokens", "tokens", tooltip="Show the losses of the text's tokens."),
        Binding("f", "file", "file", tooltip="Browse the texts of a file or data set."),
        Binding("s", "source", "other texts", tooltip="Show the next source of texts."),
        Binding("b", "basket", "show basket", show=False, tooltip="Show the basket."),
        Binding("r", "reduction", "reduction", show=False, tooltip="Each text, mean or sum."),
        Binding("x", "clear", "empty", show=False, tooltip="Empty the basket."),
        Binding("slash", "filter", "filter", tooltip="List texts that contain a word."),
        Binding("colon", "go_to", "go to", show=False, tooltip="Go to a text by its number."),
        Binding("y", "copy", "copy", show=False, tooltip="Copy the text."),
        Binding("o", "pager", "pager", show=False, tooltip="Read the text in a pager."),
        Binding("escape", "back", "back", show=False, tooltip="Back to the list; else go back."),
    ]
    DEFAULT_CSS = """
    QueriesScreen #source { color: $text-muted; }
    QueriesScreen #basket { background: $surface; }
    QueriesScreen #losses { border-top: solid $border-blurred; }
    QueriesScreen TokenText { height: 35%; min-height: 3; }
    """

    def __init__(self) -> None:
        """An empty screen."""
        super().__init__()
        self.basket = Basket()
        self.sources: dict[str, Source] = {}
        """Sources by name: those of the run, then files and typed texts."""
        self.known: RunQueries | None = None
        """The selected run and its queries."""
        self._source = ""
        """Name of the listed source."""
        self._filter = ""
        self._reading = ""
        """Path of the file being read."""
        self._cost: AttributionCost | None = None
        self._submitting = False
        self._pending: tuple[str, str] | None = None
        """Key of the text whose losses are being computed."""
        self._losses: LRUCache[tuple[str, tuple[str, str]], TextLosses] = LRUCache(_CACHED_LOSSES)

    def body(self) -> ComposeResult:
        """Source, list, losses and text, basket, prompt."""
        yield Lines(id="source")
        yield CandidateList(lambda candidate: candidate in self.basket)
        yield Lines(2, id="losses")
        yield TokenText()
        yield Lines(2, id="basket")
        yield Prompt()

    @property
    def candidates(self) -> CandidateList:
        """The list of texts."""
        return self.query_one(CandidateList)

    @property
    def current(self) -> Candidate | None:
        """The text under the cursor."""
        return self.candidates.current

    @property
    def run(self) -> RunFolder | None:
        """The selected run, once it is read."""
        return self.known.run if self.known else None

    def on_mount(self) -> None:
        """Focus the list."""
        self.candidates.focus()

    def on_resize(self, event: events.Resize) -> None:
        """Redraw in another width."""
        self.redraw()

    def selection_changed(self, selection: Selection) -> None:
        """Read the run's queries."""
        if selection.attribution is not None:
            self._source = source_name(selection.attribution)
        self.load(selection)

    def cli_equivalent(self) -> str:
        """``magic attribute`` for the basket, or for the text under the cursor."""
        texts = list(self.basket) or ([self.current] if self.current else [])
        folder = self.selection.runs_dir
        runs_dir = None if folder == runs_folder(None).absolute() else str(folder)
        run = self.run.id if self.run is not None else "RUN"
        return attribute_command(run, texts, self.basket.reduction, runs_dir)

    def disabled_reason(self, action: str) -> str | None:
        """Actions need a run with a trajectory, texts, or a basket."""
        if action in ("attribute", "clear", "basket", "reduction") and not len(self.basket):
            return "the basket is empty; add texts with space"
        if action in ("attribute", "tokens") and self.run is None:
            return "no run is selected; choose one in screen 1"
        if action in ("attribute", "tokens") and not (self.known and self.known.has_trajectory):
            return "the run has no complete trajectory; wait for its training, or train it again"
        if action == "attribute" and self._submitting:
            return "the attribution is being submitted"
        needs_text = ("mark", "tokens", "copy", "pager", "filter", "go_to")
        if action in needs_text and not self._texts_of(self._source):
            return "there is no text here; type one with i, or open a file with f"
        if action == "source" and len(self._source_names()) < 2:
            return "there are no other texts; type one with i, or open a file with f"
        return None

    def action_mark(self) -> None:
        """Add the text to the basket or remove it, and move on."""
        if self.current is not None:
            self.basket.toggle(self.current)
            if self._source != BASKET:
                self.candidates.action_move(1)
            self._basket_changed()

    def action_clear(self) -> None:
        """Empty the basket."""
        self.basket.clear()
        self._basket_changed()

    def action_reduction(self) -> None:
        """Switch between one query per text, their mean and their sum."""
        self.basket.cycle_reduction()
        self._basket_changed()

    def action_type(self) -> None:
        """Prompt for a text."""
        self.query_one(Prompt).open("text", "", self._add_typed)

    def action_file(self) -> None:
        """Prompt for a file."""
        self.query_one(Prompt).open("file [column, or prompt,completion]", "", self._open_file)

    def action_filter(self) -> None:
        """Prompt for a filter."""
        self.query_one(Prompt).open("filter", self._filter, self._set_filter, self._set_filter)

    def action_go_to(self) -> None:
        """Prompt for a number."""
        self.query_one(Prompt).open("go to text, counted from 1", "", self._go_to)

    def action_source(self) -> None:
        """Show the next source."""
        names = self._source_names()
        place = names.index(self._source) + 1 if self._source in names else 0
        self._show_source(names[place % len(names)])

    def action_basket(self) -> None:
        """Show the basket."""
        self._show_source(BASKET)

    def action_tokens(self) -> None:
        """Show the losses of the text's tokens."""
        current = self.current
        if current is None or self.run is None:
            return
        self.query_one(TokenText).focus()
        if self._known_losses(current) is None:
            self._pending = current.key
            self._compute_losses(self.run, current)
            self._update_text()

    def action_attribute(self) -> None:
        """Submit an attribution of the basket."""
        if self.run is not None:
            self._submitting = True
            self.refresh_bindings()
            self._submit(self.run.id, list(self.basket), self.basket.reduction)

    def action_copy(self) -> None:
        """Copy the text."""
        if self.current is not None:
            self.magic.copy(self.current.text, "text")

    def action_pager(self) -> None:
        """Show the text in a pager."""
        if self.current is not None:
            self.magic.page(safe_text(self.current.text, keep_newlines=True))

    def action_back(self) -> None:
        """Focus the list; if it has the focus, go back."""
        if self.query_one(TokenText).has_focus:
            self.candidates.focus()
        else:
            self.magic.action_out()

    def redraw(self) -> None:
        """Redraw everything."""
        if self._source not in self._source_names():
            self._source = next(iter(self._source_names()), "")
        texts, wanted = self._texts_of(self._source), self._filter.casefold()
        listed = texts
        if wanted:
            listed = [t for t in texts if wanted in t.text[:_FILTERED_CHARACTERS].casefold()]
        self.candidates.update(listed)
        width, source = self.size.width - 2, self.sources.get(self._source)
        total = source.total if source else 0
        facts = source_text(self._source, len(listed), len(texts), total, self._filter)
        line = Text(fit(self._progress() or facts, width), end="")
        self.query_one("#source", Lines).update([line])
        basket = basket_lines(len(self.basket), self.basket.reduction, self._cost, width)
        self.query_one("#basket", Lines).update(list(basket))
        self._update_text()
        self.refresh_bindings()

    @on(VirtualList.Moved)
    def _moved(self) -> None:
        self._update_text()

    @on(TokenText.Moved)
    def _token_moved(self) -> None:
        self._update_losses()

    @on(VirtualList.Chosen)
    async def _chosen(self) -> None:
        current = self.current
        if current is not None and current.scored_in is not None:
            attribution, query = current.scored_in
            self.magic.select(attribution=attribution, query=query)
            self.magic.open_screen(4)
        elif current is not None:
            await self.app.run_action("screen.tokens")

    def _progress(self) -> str:
        """What is being waited for; empty if nothing is."""
        if self._reading:
            return f"reading {one_line(self._reading)} …"
        if not self._source_names() and self.known is not None and self.known.unread is not None:
            return f"the run has not read its queries yet: {one_line(self.known.unread)}"
        return ""

    def _source_names(self) -> list[str]:
        return [*self.sources, *([BASKET] if len(self.basket) else [])]

    def _texts_of(self, name: str) -> list[Candidate]:
        if name == BASKET:
            return list(self.basket)
        return list(self.sources[name].candidates) if name in self.sources else []

    def _show_source(self, name: str) -> None:
        self._source, self._filter = name, ""
        self.redraw()
        self.candidates.move_to(0)

    def _known_losses(self, candidate: Candidate) -> TextLosses | None:
        return None if self.run is None else self._losses.get((self.run.id, candidate.key))

    def _update_text(self) -> None:
        text, current = self.query_one(TokenText), self.current
        losses = None if current is None else self._known_losses(current)
        if current is None:
            text.update([], unshaded(0), False)
        elif losses is None:
            whole = (current.cut_text or current.text)[:_SHOWN_CHARACTERS]
            text.update([whole], unshaded(1), False)
        else:
            texts = [token.text for token in losses.tokens]
            text.update(texts, loss_shading(losses), not self.magic.has_colour)
        self._update_losses()

    def _update_losses(self) -> None:
        """The line above the text: mean loss, loss of the token under the cursor, legend."""
        current, width = self.current, self.size.width - 2
        losses = None if current is None else self._known_losses(current)
        line = Text(no_wrap=True)
        if losses is not None:
            text = self.query_one(TokenText)
            line = Text(f"mean loss {loss_text(losses.loss)}", "bold", no_wrap=True)
            if text.has_focus:
                token = losses.tokens[min(text.cursor, len(losses.tokens) - 1)]
                value = "has no loss" if token.loss is None else f"loss {loss_text(token.loss)}"
                line.append(f"   {fit(one_line(repr(token.text)), 18)} {value}", "not bold")
            legend = Text("   ").append_text(loss_legend(losses.hardest, self.magic.has_colour))
            if line.cell_len + legend.cell_len <= width:
                line.append_text(legend)
        elif current is not None:
            hint = _LOSSES_HINT if self.disabled_reason("tokens") is None else ""
            line = Text(fit(_COMPUTING if self._pending == current.key else hint, width), "dim")
        self.query_one("#losses", Lines).update([line])

    def _add_typed(self, text: str) -> None:
        problem = text_problem(text)
        self.show_key_problem(problem)
        if problem or not text.strip():
            return
        typed = Candidate(text)
        others = [each for each in self._texts_of(TYPED) if each.key != typed.key]
        self.sources[TYPED] = Source(TYPED, (*others, typed), len(others) + 1)
        self.basket.add(typed)
        self._show_source(TYPED)
        self.candidates.move_to(len(others))
        self._basket_changed()

    def _open_file(self, line: str) -> None:
        path, columns = parse_source(line)
        if path:
            self._read_file(path, columns)

    def _set_filter(self, text: str) -> None:
        self._filter = text.strip()
        self.redraw()
        self.candidates.move_to(0)

    def _go_to(self, text: str) -> None:
        if text.strip().isdigit():
            self.candidates.move_to(int(text) - 1)

    def _basket_changed(self) -> None:
        """Save the basket and update its cost."""
        if self.run is not None:
            self._save(self.run.id, self.basket)
        self._update_basket()

    def _update_basket(self) -> None:
        self._cost = None
        if self.run is not None and len(self.basket):
            self._estimate(self.run, self.basket.queries)
        self.redraw()

    @work(thread=True, group="basket", exit_on_error=False)
    def _save(self, run: str, basket: Basket) -> None:
        try:
            save_basket(run, basket)
        except MagicError as error:
            self.call_from_worker(self.show_problem, str(error))

    @work(thread=True, exclusive=True, group="queries", exit_on_error=False)
    def load(self, selection: Selection) -> None:
        """Read the run's queries, and its basket if it is another run."""
        try:
            run = selection.folder or find_run(selection.runs_dir)
            known = read_run_queries(run)
            saved = None if self.run == run else load_basket(run.id)
        except (MagicError, OSError) as error:
            self.call_from_worker(self._load_failed, str(error))
            return
        self.call_from_worker(self._loaded, known, saved)

    def _loaded(self, known: RunQueries, saved: tuple[Basket, str | None] | None) -> None:
        if known.will_change:
            self.set_timer(_RETRY_SECONDS, self._load_again)
        if known == self.known:
            self.redraw()
            return
        others = [s for s in self.sources.values() if s.attribution is None]
        complete = [source for source in known.sources if source.complete]
        sources = [*known.sources, *(with_results(source, complete) for source in others)]
        self.sources = {source.name: source for source in sources}
        # Texts put into the basket before any run was read belong to this run.
        unclaimed, self.known = self.basket if self.run is None else Basket(), known
        self.show_problem(None)
        if saved is not None:
            self.basket, problem = saved
            for candidate in unclaimed:
                self.basket.add(candidate)
            self.show_problem(problem)
        self._update_basket()

    def _load_failed(self, sentence: str) -> None:
        self.sources = {s.name: s for s in self.sources.values() if s.attribution is None}
        if self.known is not None:
            self.basket = Basket()
        self.known, self._cost = None, None
        self.show_problem(sentence)
        self.redraw()
        self.set_timer(_RETRY_SECONDS, self._load_again)

    def _load_again(self) -> None:
        wanted = self.known is None or self.known.will_change
        if wanted and self.magic.current_screen is self:
            self.load(self.selection)

    @work(thread=True, exclusive=True, group="cost", exit_on_error=False)
    def _estimate(self, run: RunFolder, queries: int) -> None:
        try:
            cost = query_cost(run, queries)
        except (MagicError, OSError) as error:
            self.call_from_worker(self.show_problem, str(error))
            return
        self.call_from_worker(self._show_cost, cost)

    def _show_cost(self, cost: AttributionCost) -> None:
        self._cost = cost
        self.redraw()

    @work(thread=True, exclusive=True, group="losses", exit_on_error=False)
    def _compute_losses(self, run: RunFolder, candidate: Candidate) -> None:
        problem = None
        try:
            self._losses.put((run.id, candidate.key), read_losses(run, candidate))
        except (MagicError, OSError) as error:
            problem = str(error)
        self.call_from_worker(self._losses_computed, problem)

    def _losses_computed(self, problem: str | None) -> None:
        self._pending = None
        self.show_key_problem(problem)
        self.redraw()

    @work(thread=True, exclusive=True, group="file", exit_on_error=False)
    def _read_file(self, path: str, columns: dict[str, str]) -> None:
        self.call_from_worker(self._set_reading, path, None)
        worker = get_current_worker()
        try:
            source = read_source(path, columns, Path.cwd(), lambda: worker.is_cancelled)
        except (MagicError, OSError) as error:
            problem = str(error).removeprefix("queries.path: ")
            self.call_from_worker(self._set_reading, "", problem)
            return
        self.call_from_worker(self._file_read, source)

    def _set_reading(self, path: str, problem: str | None) -> None:
        self._reading = path
        self.show_key_problem(problem)
        self.redraw()

    def _file_read(self, source: Source) -> None:
        self._reading = ""
        self.show_problem(None)
        self.sources[source.name] = source
        self._show_source(source.name)

    @work(thread=True, group="submit", exit_on_error=False)
    def _submit(self, run: str, texts: list[Candidate], reduction: str) -> None:
        try:
            engine = self.magic.engine()
            # Reading the run first also reconnects to an engine that was restarted.
            view = submit_checked(engine, engine.run(run), request_of(texts, reduction))
        except (MagicError, OSError, UnicodeError) as error:
            self.call_from_worker(self._rejected, str(error))
            return
        self.call_from_worker(self._queued, run, str(view["jobs"][-1]["attribution"]))

    def _rejected(self, sentence: str) -> None:
        self._submitting = False
        self.show_problem(sentence)
        self.refresh_bindings()

    def _queued(self, run: str, attribution: str) -> None:
        self._submitting = False
        self.basket.clear()
        self._basket_changed()
        self.show_problem(None)
        self.magic.show_message(f"attribution {attribution} is queued; nothing is retrained")
        # Screens 4 to 8 show this attribution next.
        self.magic.select(run=run, attribution=attribution)
        self.magic.open_screen(2)
