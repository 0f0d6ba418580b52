"""Base class of the screens that read scores: reading in the background, one selection."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from textual.binding import Binding, BindingType
from textual.timer import Timer

from engine.runs.errors import MagicError
from engine.runs.listing import find_run
from engine.runs.paths import runs_folder
from engine.runs.score_store import list_attributions
from magic_tui.explore.no_scores import why_no_scores
from magic_tui.explore.score_browser import ScoreBrowser, browse
from magic_tui.widgets.header import Header
from magic_tui.widgets.screen import MagicScreen
from magic_tui.widgets.selection import Selection

Loaded = TypeVar("Loaded")
_RETRY_SECONDS = 3.0


class ScoreScreen(MagicScreen):
    """Subclasses call :meth:`read` when the selection changes.

    The problem line reports what cannot be read, and reading is retried. Everything on screen
    belongs to one reading: if another attribution or query cannot be read, :meth:`clear` empties
    the screen.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("A", "attribution", "attribution", show=False, tooltip="Next attribution."),
    ]
    browser: ScoreBrowser | None = None
    """The attribution on screen."""
    _loaded_for: Selection | None = None
    """The selection on screen, including what this screen selected itself."""
    _retry: Timer | None = None

    def clear(self) -> None:
        """Empty the screen."""

    def read(
        self, group: str, load: Callable[[ScoreBrowser], Loaded], show: Callable[[Loaded], Any]
    ) -> None:
        """Load data of the selected attribution in a thread, then show it.

        Args:
            group: a later reading of the same group cancels an earlier one.
            load: runs in the thread.
            show: runs in the app.
        """
        selection = self.selection

        def job() -> None:
            try:
                browser = open_selected(selection)
                loaded = load(browser)
            except (MagicError, OSError) as error:
                self.call_from_worker(self._failed, selection, _reason(selection, error))
            else:
                self.call_from_worker(self._succeeded, selection, browser, lambda: show(loaded))

        self.run_worker(job, thread=True, exclusive=True, group=group, exit_on_error=False)

    def read_more(
        self, group: str, load: Callable[[ScoreBrowser], Loaded], show: Callable[[Loaded], Any]
    ) -> None:
        """Load more data of the attribution on screen; see :meth:`read`."""
        selection, browser = self.selection, self.browser
        if browser is None:
            return

        def show_if_current(loaded: Loaded) -> None:
            # Another attribution may have been read meanwhile.
            if browser is self.browser:
                show(loaded)

        def job() -> None:
            try:
                loaded = load(browser)
            except (MagicError, OSError) as error:
                self.call_from_worker(self._failed, selection, _reason(selection, error))
            else:
                self.call_from_worker(show_if_current, loaded)

        self.run_worker(job, thread=True, exclusive=True, group=group, exit_on_error=False)

    def command(self, verb: str, *arguments: object, attribution: bool = True) -> str:
        """A command line for the selected run, and for the attribution if the verb takes one."""
        selection = self.selection
        parts = ["magic", verb]
        if selection.run is not None:
            parts.append(selection.run)
        parts += [str(argument) for argument in arguments]
        if attribution and selection.attribution is not None:
            parts += ["-a", selection.attribution]
        if selection.runs_dir != runs_folder(None).absolute():
            parts += ["--runs-dir", str(selection.runs_dir)]
        return shlex.join(parts)

    def only_one_query(self) -> str | None:
        """The reason why there is no next query, if there is none."""
        if self.browser is not None and self.browser.queries == 1:
            return "this attribution has only one query"
        return None

    def select_query(self, step: int) -> None:
        """Select another query."""
        if self.browser is not None:
            self.magic.select(query=(self.selection.query + step) % self.browser.queries)

    def open_document(self, document: int) -> None:
        """Select a document and open its screen."""
        self.magic.select(document=document)
        self.magic.open_screen(5)

    def select_quietly(self, **changes: Any) -> None:
        """Record in the selection what this screen shows already."""
        self._applied = self._loaded_for = replace(self.selection, **changes)
        self.magic.selection = self._applied

    def action_attribution(self) -> None:
        """Select the run's next complete attribution, wrapping around."""
        folder = self.selection.folder
        ids = [] if folder is None else [f.name for f in list_attributions(folder.attributions)]
        current = self.selection.attribution
        if not ids:
            self.magic.show_message("the run has no complete attribution", "warning")
        elif ids == [current]:
            message = f"{current} is the run's only complete attribution"
            self.magic.show_message(message, "warning")
        else:
            following = ids[(ids.index(current) + 1) % len(ids)] if current in ids else ids[-1]
            self.magic.select(attribution=following)
            self.magic.show_message(f"attribution {following}, one of {len(ids)}", seconds=3.0)

    def _succeeded(
        self, selection: Selection, browser: ScoreBrowser, show: Callable[[], Any]
    ) -> None:
        self.browser = browser
        run, attribution = browser.attribution.run.id, browser.attribution.id
        if selection.attribution is None and selection == self.selection:
            # Stay on this attribution when a later one completes.
            self.select_quietly(run=run, attribution=attribution)
            self.query_one(Header).update(self.selection)
        self._loaded_for = replace(selection, run=run, attribution=attribution)
        if self._retry is not None:
            self._retry.stop()
            self._retry = None
            self.show_problem(None)
        show()
        self.refresh_bindings()

    def _failed(self, selection: Selection, sentence: str) -> None:
        loaded = self._loaded_for
        if loaded is not None and loaded != replace(selection, document=loaded.document):
            self.browser = self._loaded_for = None
            self.clear()
        self.show_problem(sentence)
        if self._retry is not None:
            self._retry.stop()
        self._retry = self.set_timer(_RETRY_SECONDS, self._read_again)
        self.refresh_bindings()

    def _read_again(self) -> None:
        if self.magic.current_screen is self:
            self.selection_changed(self.selection)


def open_selected(selection: Selection) -> ScoreBrowser:
    """The selected attribution, by default the latest of the latest run.

    Raises:
        MagicError: if there is none, or it cannot be read.
    """
    run = selection.folder or find_run(selection.runs_dir)
    return browse(run, selection.attribution)


def _reason(selection: Selection, error: Exception) -> str:
    """The run's state if it has no scores yet; otherwise the error."""
    folder = selection.folder
    reason = None if folder is None else why_no_scores(folder, selection.attribution)
    return reason or str(error)
