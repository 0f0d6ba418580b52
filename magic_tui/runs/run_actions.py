"""Asking a run to pause, to go on, to end or to be removed: what Runs and Live share."""

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.binding import Binding, BindingType
from textual.widget import Widget

from engine.runs.errors import MagicError
from engine.runs.states import RunState, View
from magic_tui.client.engine import UNREADABLE, RunAction, standing
from magic_tui.runs.removal import removal_facts, removal_lines
from magic_tui.text.numbers import bytes_text
from magic_tui.widgets.confirm import ConfirmScreen

if TYPE_CHECKING:
    from magic_tui.widgets.screen import Dashboard

_CAN_PAUSE = (RunState.QUEUED, RunState.BLOCKED, RunState.STARTING, RunState.RUNNING)
_CAN_RESUME = (RunState.PAUSED, RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED)
_CAN_CANCEL = (*_CAN_PAUSE, RunState.PAUSING, RunState.PAUSED, RunState.INTERRUPTED)

_STANDS = {
    RunState.SUCCEEDED: "has succeeded",
    RunState.FAILED: "has failed",
    UNREADABLE: "cannot be read",
}
"""States that do not go with "is"."""


class RunActions(Widget):
    """A screen with a run that can be paused, resumed and cancelled."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pause", "pause", tooltip="Pause: it finishes its step and saves."),
        Binding("r", "resume", "resume", tooltip="Let it go on from what it saved."),
        Binding("x", "cancel", "cancel", tooltip="End it without saving; asks first."),
        Binding("E", "start_engine", show=False, tooltip="Start the engine if it was stopped."),
    ]

    if TYPE_CHECKING:

        @property
        def magic(self) -> Dashboard:
            """The app."""

        def show_problem(self, sentence: str | None) -> None:
            """Say what is wrong."""

    def chosen_run(self) -> View | None:
        """The run that is meant."""
        raise NotImplementedError

    def why_unavailable(self, action: str, run: View | None) -> str | None:
        """Why the run cannot be paused, resumed or cancelled now."""
        able = {"pause": _CAN_PAUSE, "resume": _CAN_RESUME, "cancel": _CAN_CANCEL}.get(action)
        if able is None:
            return None
        if run is None:
            return "there is no run here"
        state = standing(run)[0]
        states = {state, *(job["state"] for job in run["jobs"])}
        if state == UNREADABLE or states.isdisjoint(able):
            stands = _STANDS.get(state, f"is {state}")
            return f"run {run['id']} {stands}; there is nothing to {action}"
        return None

    def action_pause(self) -> None:
        """Pause."""
        self._run_action("pause")

    def action_resume(self) -> None:
        """Go on."""
        self._run_action("resume")

    def action_cancel(self) -> None:
        """Ask, then cancel."""

        def answered(yes: bool | None) -> None:
            if yes:
                self._run_action("cancel")

        run = self.chosen_run()
        if run is not None:
            question = ConfirmScreen(
                f"Cancel run {run['name']}?",
                "It ends without saving; what it had saved before stays, and it can be resumed.",
            )
            self.app.push_screen(question, answered)

    @work(thread=True, exclusive=True, group="remove", exit_on_error=False)
    def ask_to_remove(self, run: View, then: Callable[[], object]) -> None:
        """Say what would be lost, ask, then remove a run from disk."""

        def answered(yes: bool | None) -> None:
            if yes:
                self._remove(run["id"], then)

        lost = removal_facts(run, trajectory=False)
        question = ConfirmScreen(
            f"Remove run {run['name']} ({run['id']})?",
            f"{bytes_text(lost['bytes'])} are deleted for good: {'; '.join(removal_lines(lost))}.",
        )
        self.app.call_from_thread(self.app.push_screen, question, answered)

    def _run_action(self, action: RunAction) -> None:
        run = self.chosen_run()
        if run is not None:
            self._act(run["id"], action)

    @work(thread=True, exit_on_error=False)
    def _act(self, run_id: str, action: RunAction) -> None:
        self._do(lambda: self.magic.engine().act(run_id, action), f"sent {action} to run {run_id}")

    @work(thread=True, exit_on_error=False)
    def _remove(self, run_id: str, then: Callable[[], object]) -> None:
        self._do(lambda: self.magic.engine().remove(run_id, "run"), f"run {run_id} is removed")
        self.app.call_from_thread(then)

    @work(thread=True, exit_on_error=False)
    def action_start_engine(self) -> None:
        """Start the engine."""
        self._do(self.magic.start_engine, "the engine runs")

    def _do(self, deed: Callable[[], object], said: str) -> None:
        try:
            deed()
        except MagicError as error:
            self.app.call_from_thread(self.magic.show_message, str(error), "warning")
        else:
            self.app.call_from_thread(self.magic.show_message, said)
