"""What the screens that look around in an attribution have in common: reading in the background."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from textual.binding import Binding, BindingType
from textual.timer import Timer
from textual.worker import Worker, get_current_worker

from engine.runs.errors import MagicError
from engine.runs.listing import find_run
from engine.runs.naming import runs_folder
from engine.runs.score_store import list_attributions
from magic_tui.explore.no_scores import why_no_scores
from magic_tui.explore.score_browser import ScoreBrowser, explore
from magic_tui.widgets.header import Header
from magic_tui.widgets.screen import MagicScreen
from magic_tui.widgets.selection import Selection

Made = TypeVar("Made")
_RETRY_SECONDS = 3.0


class ExploringScreen(MagicScreen):
    """Reads with :meth:`read`; what cannot be read is told in place and tried again.

    What is shown is of one reading: if another attribution or query cannot be read, :meth:`clear`
    takes away what stands there of the former one.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("A", "attribution", "attribution", show=False, tooltip="Next attribution."),
    ]
    explored: ScoreBrowser | None = None
    _shown_of: Selection | None = None
    """What is shown: the selection at the latest reading, and what this screen selected since."""
    _retry: Timer | None = None

    def clear(self) -> None:
        """Show nothing: what was shown is not what is selected."""

    def read(
        self, group: str, make: Callable[[ScoreBrowser], Made], take: Callable[[Made], Any]
    ) -> None:
        """Make something of the selected attribution in a thread, then take it in.

        Args:
            group: a later reading of the same group takes the place of one that is under way.
            make: reads; runs in the thread.
            take: shows; runs in the app.
        """
        selection = self.selection

        def job() -> None:
            worker = get_current_worker()
            try:
                explored = open_selected(selection)
                made = make(explored)
            except (MagicError, OSError) as error:
                sentence = _explained(selection, error)
                self.from_thread(worker, lambda: self._failed(selection, sentence))
            else:
                self.from_thread(worker, lambda: self._read(selection, explored, made, take))

        self.run_worker(job, thread=True, exclusive=True, group=group, exit_on_error=False)

    def read_more(
        self, group: str, make: Callable[[ScoreBrowser], Made], take: Callable[[Made], Any]
    ) -> None:
        """Make something more of the attribution that is shown already; see :meth:`read`."""
        selection, explored = self.selection, self.explored
        if explored is None:
            return

        def job() -> None:
            worker = get_current_worker()
            try:
                made = make(explored)
            except (MagicError, OSError) as error:
                sentence = _explained(selection, error)
                self.from_thread(worker, lambda: self._failed(selection, sentence))
            else:
                self.from_thread(worker, lambda: self._more(explored, made, take))

        self.run_worker(job, thread=True, exclusive=True, group=group, exit_on_error=False)

    def from_thread(self, worker: Worker[Any], tell: Callable[[], Any]) -> bool:
        """Call ``tell`` in the app unless the worker is out of date; whether it was called."""
        if worker.is_cancelled or not self.is_mounted:
            return False
        self.app.call_from_thread(tell)
        return True

    def command(self, verb: str, *arguments: object, attribution: bool = True) -> str:
        """A command line about the selected run, and the attribution if the verb takes one."""
        chosen = self.selection
        parts = ["magic", verb]
        if chosen.run is not None:
            parts.append(chosen.run)
        parts += [str(argument) for argument in arguments]
        if attribution and chosen.attribution is not None:
            parts += ["-a", chosen.attribution]
        if chosen.runs_dir != runs_folder(None).absolute():
            parts += ["--runs-dir", str(chosen.runs_dir)]
        return shlex.join(parts)

    def select_query(self, step: int) -> None:
        """Look at another query."""
        if self.explored is not None:
            self.magic.select(query=(self.selection.query + step) % self.explored.queries)

    def action_attribution(self) -> None:
        """Look at the next complete attribution of the run, behind the last at the first."""
        folder = self.selection.folder
        found = [] if folder is None else [f.name for f in list_attributions(folder.attributions)]
        here = self.selection.attribution
        if not found:
            self.magic.show_message("no attribution of this run is complete", "warning")
        elif found == [here]:
            self.magic.show_message(
                f"{here} is the only complete attribution of this run", "warning"
            )
        else:
            following = found[(found.index(here) + 1) % len(found)] if here in found else found[-1]
            self.magic.select(attribution=following)
            self.magic.show_message(f"attribution {following}, one of {len(found)}", seconds=3.0)

    def _read(
        self, selection: Selection, explored: ScoreBrowser, made: Made, take: Callable[[Made], Any]
    ) -> None:
        self.explored = explored
        self._stay(selection, explored)
        self._shown_of = replace(
            selection, run=explored.attribution.run.id, attribution=explored.attribution.id
        )
        if self._retry is not None:
            self._retry.stop()
            self._retry = None
            self.show_problem(None)
        take(made)
        self.refresh_bindings()

    def _more(self, explored: ScoreBrowser, made: Made, take: Callable[[Made], Any]) -> None:
        # Another attribution may have come in meanwhile.
        if explored is self.explored:
            take(made)

    def _stay(self, selection: Selection, explored: ScoreBrowser) -> None:
        """Look at this attribution from now on, also once a later one is complete."""
        if selection.attribution is None and selection == self.selection:
            attribution = explored.attribution
            self.select_quietly(run=attribution.run.id, attribution=attribution.id)
            self.query_one(Header).show(self.selection)

    def select_quietly(self, **changes: Any) -> None:
        """Note in the selection what this screen shows already."""
        self._told = self._shown_of = replace(self.selection, **changes)
        self.magic.selection = self._told

    def _failed(self, selection: Selection, sentence: str) -> None:
        shown = self._shown_of
        if shown is not None and shown != replace(selection, document=shown.document):
            self.explored = self._shown_of = None
            self.clear()
        self.show_problem(sentence)
        if self._retry is not None:
            self._retry.stop()
        self._retry = self.set_timer(_RETRY_SECONDS, self._try_again)
        self.refresh_bindings()

    def _try_again(self) -> None:
        if self.magic.current_screen is self:
            self.selection_changed(self.selection)


def open_selected(selection: Selection) -> ScoreBrowser:
    """The selected attribution; the latest of the latest run where nothing is chosen.

    Raises:
        MagicError: if there is none, or it cannot be read.
    """
    run = selection.folder or find_run(selection.runs_dir)
    return explore(run, selection.attribution)


def _explained(selection: Selection, error: Exception) -> str:
    """Why nothing can be shown: what the run does now, if it has no scores; else the error."""
    folder = selection.folder
    known = None if folder is None else why_no_scores(folder, selection.attribution)
    return known or str(error)
