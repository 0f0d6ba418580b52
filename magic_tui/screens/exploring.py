"""What the screens that look around in an attribution have in common: reading in the background."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from textual.worker import Worker, get_current_worker

from engine.contract.errors import MagicError
from engine.records.naming import runs_folder
from engine.records.run_folder import find_run
from magic_tui.client.explored import Explored, explore
from magic_tui.screens.base import MagicScreen
from magic_tui.selection import Selection
from magic_tui.widgets.head import Head

Made = TypeVar("Made")
_RETRY_SECONDS = 3.0


class ExploringScreen(MagicScreen):
    """Reads with :meth:`read`; what cannot be read is told in place and tried again."""

    explored: Explored | None = None
    _failing = False

    def read(
        self, group: str, make: Callable[[Explored], Made], take: Callable[[Made], Any]
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
                sentence = str(error)
                self.from_thread(worker, lambda: self._failed(sentence))
            else:
                self.from_thread(worker, lambda: self._read(selection, explored, made, take))

        self.run_worker(job, thread=True, exclusive=True, group=group, exit_on_error=False)

    def from_thread(self, worker: Worker[Any], tell: Callable[[], Any]) -> bool:
        """Call ``tell`` in the app unless the worker is out of date; whether it was called."""
        if worker.is_cancelled or not self.is_mounted:
            return False
        self.app.call_from_thread(tell)
        return True

    def command(self, verb: str, *arguments: object) -> str:
        """A command line about the selected run and attribution."""
        chosen = self.selection
        parts = ["magic", verb]
        if chosen.run is not None:
            parts.append(chosen.run)
        parts += [str(argument) for argument in arguments]
        if chosen.attribution is not None:
            parts += ["-a", chosen.attribution]
        if chosen.runs_dir != runs_folder(None).absolute():
            parts += ["--runs-dir", str(chosen.runs_dir)]
        return shlex.join(parts)

    def select_query(self, step: int) -> None:
        """Look at another query."""
        if self.explored is not None:
            self.magic.select(query=(self.selection.query + step) % self.explored.queries)

    def _read(
        self, selection: Selection, explored: Explored, made: Made, take: Callable[[Made], Any]
    ) -> None:
        self.explored = explored
        self._stay(selection, explored)
        if self._failing:
            self._failing = False
            self.problem(None)
        take(made)
        self.refresh_bindings()

    def _stay(self, selection: Selection, explored: Explored) -> None:
        """Look at this attribution from now on, also once a later one is complete."""
        if selection.attribution is None and selection == self.selection:
            attribution = explored.attribution
            # This screen shows it already.
            self._told = replace(selection, run=attribution.run.id, attribution=attribution.id)
            self.query_one(Head).show(self._told)
            self.magic.selection = self._told

    def _failed(self, sentence: str) -> None:
        self.problem(sentence)
        self._failing = True
        self.set_timer(_RETRY_SECONDS, self._try_again)

    def _try_again(self) -> None:
        if self._failing and self.magic.shown is self:
            self.selection_changed(self.selection)


def open_selected(selection: Selection) -> Explored:
    """The selected attribution; the latest of the latest run where nothing is chosen.

    Raises:
        MagicError: if there is none, or it cannot be read.
    """
    run = selection.folder or find_run(selection.runs_dir)
    return explore(run, selection.attribution)
