"""What the Queries screen reads and asks for in the background."""

from pathlib import Path
from typing import Any

from textual import work
from textual.worker import get_current_worker

from engine.runs.errors import MagicError
from engine.runs.listing import find_run
from engine.runs.lru import Recent
from engine.runs.run_folder import RunFolder
from engine.runs.safe_text import one_line
from magic_tui.queries.basket import Basket
from magic_tui.queries.basket_file import keep_basket, kept_basket
from magic_tui.queries.candidates import (
    Candidate,
    Source,
    TextLosses,
    read_losses,
    read_source,
    request_of,
    source_named,
)
from magic_tui.queries.check_queries import ask_checked
from magic_tui.queries.past_queries import Known, read_known, with_answers
from magic_tui.queries.query_cost import QueryCost, query_cost
from magic_tui.widgets.screen import MagicScreen
from magic_tui.widgets.selection import Selection

BASKET, TYPED = "basket", "typed here"
_KEPT_LOSSES, _RETRY_SECONDS = 200, 3.0


class AskingScreen(MagicScreen):
    """Holds texts, the basket and what is known of them; :meth:`show_all` draws them."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        super().__init__()
        self.basket = Basket()
        self.sources: dict[str, Source] = {}
        """Texts by their origin: those of the run, then files and typed ones."""
        self.known: Known | None = None
        self.reading = ""
        """The file whose texts are being read."""
        self.cost: QueryCost | None = None
        self.asking = False
        """Whether the engine is being asked."""
        self.pending: tuple[str, str] | None = None
        """The text whose losses are being computed."""
        self._losses: Recent[tuple[str, tuple[str, str]], TextLosses] = Recent(_KEPT_LOSSES)

    def show_all(self) -> None:
        """Draw everything anew."""
        raise NotImplementedError

    def show_source(self, name: str) -> None:
        """Show the texts of one origin."""
        raise NotImplementedError

    @property
    def run(self) -> RunFolder | None:
        """The run that can be asked."""
        return self.known.run if self.known else None

    @property
    def note(self) -> str:
        """What is going on where texts will be; empty if nothing is."""
        if self.reading:
            return f"reading {one_line(self.reading)} …"
        if not self.names() and self.known is not None and self.known.awaited is not None:
            return f"the run has not read its own queries yet: {one_line(self.known.awaited)}"
        return ""

    def names(self) -> list[str]:
        """All origins of texts, the basket last."""
        return [*self.sources, *([BASKET] if len(self.basket) else [])]

    def texts_of(self, name: str) -> list[Candidate]:
        """The texts of one origin."""
        if name == BASKET:
            return list(self.basket)
        return list(self.sources[name].candidates) if name in self.sources else []

    def add_typed(self, typed: Candidate) -> int:
        """Put a typed text among the others and into the basket; its place among them."""
        others = [each for each in self.texts_of(TYPED) if each.key != typed.key]
        self.sources[TYPED] = Source(TYPED, (*others, typed), len(others) + 1)
        self.basket.add(typed)
        return len(others)

    def name_file(self, line: str) -> None:
        """Read the file, and the columns, that a line names."""
        path, columns = source_named(line)
        if path:
            self.read_file(path, columns)

    def known_losses(self, candidate: Candidate) -> TextLosses | None:
        """The losses of a text, if they were computed before."""
        return None if self.run is None else self._losses.get((self.run.id, candidate.key))

    def from_thread(self, tell: Any, *arguments: Any) -> None:
        """Call ``tell`` in the app unless this worker is out of date."""
        if not get_current_worker().is_cancelled and self.is_mounted:
            self.app.call_from_thread(tell, *arguments)

    def basket_changed(self) -> None:
        """Keep the basket, and look up what it costs now."""
        if self.run is not None:
            self._keep(self.run.id, self.basket)
        self.show_basket()

    def show_basket(self) -> None:
        """Draw the basket, and look up what it costs."""
        self.cost = None
        if self.run is not None and len(self.basket):
            self.look_up_cost(self.run, self.basket.queries)
        self.show_all()

    @work(thread=True, group="basket", exit_on_error=False)
    def _keep(self, run: str, basket: Basket) -> None:
        try:
            keep_basket(run, basket)
        except MagicError as error:
            self.from_thread(self.show_problem, str(error))

    @work(thread=True, exclusive=True, group="queries", exit_on_error=False)
    def load(self, selection: Selection) -> None:
        """Find out what the run was asked before, and whether it can be asked."""
        try:
            run = selection.folder or find_run(selection.runs_dir)
            known = read_known(run)
            before = self.run
            basket = None if before is not None and before == run else kept_basket(run.id)
        except (MagicError, OSError) as error:
            self.from_thread(self._not_loaded, str(error))
            return
        self.from_thread(self._loaded, known, basket)

    def _loaded(self, known: Known, kept: tuple[Basket, str | None] | None) -> None:
        if known.will_change:
            self.set_timer(_RETRY_SECONDS, self._try_again)
        if known == self.known:
            self.show_all()
            return
        others = [s for s in self.sources.values() if s.attribution is None]
        answered = [source for source in known.sources if source.answered]
        shown = [*known.sources, *(with_answers(source, answered) for source in others)]
        self.sources = {source.name: source for source in shown}
        unclaimed, self.known = self.basket if self.run is None else Basket(), known
        self.show_problem(None)
        if kept is not None:
            self.basket, problem = kept
            for candidate in unclaimed:
                self.basket.add(candidate)
            self.show_problem(problem)
        self.show_basket()

    def _not_loaded(self, sentence: str) -> None:
        self.sources = {s.name: s for s in self.sources.values() if s.attribution is None}
        if self.known is not None:
            self.basket = Basket()
        self.known, self.cost = None, None
        self.show_problem(sentence)
        self.show_all()
        self.set_timer(_RETRY_SECONDS, self._try_again)

    def _try_again(self) -> None:
        waits = self.known is None or self.known.will_change
        if waits and self.magic.current_screen is self:
            self.load(self.selection)

    @work(thread=True, exclusive=True, group="cost", exit_on_error=False)
    def look_up_cost(self, run: RunFolder, queries: int) -> None:
        """Estimate what asking would take."""
        try:
            cost = query_cost(run, queries)
        except (MagicError, OSError) as error:
            self.from_thread(self.show_problem, str(error))
            return
        self.from_thread(self._costed, cost)

    def _costed(self, cost: QueryCost) -> None:
        self.cost = cost
        self.show_all()

    @work(thread=True, exclusive=True, group="losses", exit_on_error=False)
    def compute_losses(self, run: RunFolder, candidate: Candidate) -> None:
        """Have a worker process compute the losses of a text."""
        problem = None
        try:
            self._losses.put((run.id, candidate.key), read_losses(run, candidate))
        except (MagicError, OSError) as error:
            problem = str(error)
        self.from_thread(self._computed, problem)

    def _computed(self, problem: str | None) -> None:
        self.pending = None
        self.show_key_problem(problem)
        self.show_all()

    @work(thread=True, exclusive=True, group="file", exit_on_error=False)
    def read_file(self, path: str, columns: dict[str, str]) -> None:
        """Read the texts of query data."""
        self.from_thread(self._reads, path, None)
        worker = get_current_worker()
        try:
            source = read_source(path, columns, Path.cwd(), lambda: worker.is_cancelled)
        except (MagicError, OSError) as error:
            self.from_thread(self._reads, "", str(error).removeprefix("queries.path: "))
            return
        self.from_thread(self._file_read, source)

    def _reads(self, path: str, problem: str | None) -> None:
        self.reading = path
        self.show_key_problem(problem)
        self.show_all()

    def _file_read(self, source: Source) -> None:
        self.reading = ""
        self.show_problem(None)
        self.sources[source.name] = source
        self.show_source(source.name)

    @work(thread=True, group="ask", exit_on_error=False)
    def launch(self, run: str, basket: list[Candidate], reduction: str) -> None:
        """Ask the engine to queue an attribution."""
        try:
            engine = self.magic.engine()
            # A question that may be repeated reaches an engine that was started anew meanwhile.
            view = ask_checked(engine, engine.run(run), request_of(basket, reduction))
        except (MagicError, OSError, UnicodeError) as error:
            self.from_thread(self._refused, str(error))
            return
        self.from_thread(self._queued, run, str(view["jobs"][-1]["attribution"]))

    def _refused(self, sentence: str) -> None:
        self.asking = False
        self.show_problem(sentence)
        self.refresh_bindings()

    def _queued(self, run: str, attribution: str) -> None:
        self.asking = False
        self.basket.clear()
        self.basket_changed()
        self.show_problem(None)
        self.magic.show_message(f"attribution {attribution} is queued; nothing is trained again")
        # What was asked now is what 4 to 8 show next.
        self.magic.select(run=run, attribution=attribution)
        self.magic.open_screen(2)
