"""A screen on which a run can be paused, resumed, cancelled and removed: base of Runs and Live."""

from collections.abc import Callable
from typing import ClassVar

from textual import work
from textual.binding import Binding, BindingType

from engine.runs.errors import MagicError
from engine.runs.states import RunState, View
from magic_tui.client.engine import UNREADABLE, RunAction, standing
from magic_tui.runs.removal import removal_facts, removal_lines
from magic_tui.text.numbers import bytes_text
from magic_tui.widgets.confirm import ConfirmScreen
from magic_tui.widgets.screen import MagicScreen

_CAN_PAUSE = (RunState.QUEUED, RunState.BLOCKED, RunState.STARTING, RunState.RUNNING)
_CAN_RESUME = (RunState.PAUSED, RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED)
_CAN_CANCEL = (*_CAN_PAUSE, RunState.PAUSING, RunState.PAUSED, RunState.INTERRUPTED)

_STATE_TEXTS = {
    RunState.SUCCEEDED: "has succeeded",
    RunState.FAILED: "has failed",
    UNREADABLE: "cannot be read",
}
"""Texts of states that do not fit "is …"."""


class RunActions(MagicScreen):
    """Subclasses implement :meth:`chosen_run`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pause", "pause", tooltip="Pause after the current step and save."),
        Binding("r", "resume", "resume", tooltip="Resume from the saved state."),
        Binding("x", "cancel", "cancel", tooltip="Cancel without saving, after confirmation."),
        Binding("E", "start_engine", show=False, tooltip="Start the engine after it was stopped."),
    ]

    def chosen_run(self) -> View | None:
        """The run that the actions apply to."""
        raise NotImplementedError

    def why_unavailable(self, action: str, run: View | None) -> str | None:
        """Why a run cannot be paused, resumed or cancelled; None if it can."""
        states = {"pause": _CAN_PAUSE, "resume": _CAN_RESUME, "cancel": _CAN_CANCEL}.get(action)
        if states is None:
            return None
        if run is None:
            return "there is no run here"
        state = standing(run)[0]
        current = {state, *(job["state"] for job in run["jobs"])}
        if state == UNREADABLE or current.isdisjoint(states):
            text = _STATE_TEXTS.get(state, f"is {state}")
            return f"run {run['id']} {text}; there is nothing to {action}"
        return None

    def action_pause(self) -> None:
        """Pause the run."""
        self._run_action("pause")

    def action_resume(self) -> None:
        """Resume the run."""
        self._run_action("resume")

    def action_cancel(self) -> None:
        """Cancel the run after confirmation."""

        def answered(yes: bool | None) -> None:
            if yes:
                self._run_action("cancel")

        run = self.chosen_run()
        if run is not None:
            question = ConfirmScreen(
                f"Cancel run {run['name']}?",
                "It ends without saving. Earlier checkpoints stay, and the run can be resumed.",
            )
            self.app.push_screen(question, answered)

    @work(thread=True, exclusive=True, group="remove", exit_on_error=False)
    def ask_to_remove(self, run: View, then: Callable[[], object]) -> None:
        """Remove a run from disk after confirmation; ``then`` is called afterwards."""

        def answered(yes: bool | None) -> None:
            if yes:
                self._remove(run["id"], then)

        lost = removal_facts(run, trajectory=False)
        question = ConfirmScreen(
            f"Remove run {run['name']} ({run['id']})?",
            f"This permanently deletes {bytes_text(lost['bytes'])}: "
            f"{'; '.join(removal_lines(lost))}.",
        )
        self.app.call_from_thread(self.app.push_screen, question, answered)

    def _run_action(self, action: RunAction) -> None:
        run = self.chosen_run()
        if run is not None:
            self._act(run["id"], action)

    @work(thread=True, exit_on_error=False)
    def _act(self, run_id: str, action: RunAction) -> None:
        engine = self.magic.engine
        self._try(lambda: engine().act(run_id, action), f"sent {action} to run {run_id}")

    @work(thread=True, exit_on_error=False)
    def _remove(self, run_id: str, then: Callable[[], object]) -> None:
        self._try(lambda: self.magic.engine().remove(run_id, "run"), f"run {run_id} removed")
        self.app.call_from_thread(then)

    @work(thread=True, exit_on_error=False)
    def action_start_engine(self) -> None:
        """Start the engine."""
        self._try(self.magic.start_engine, "the engine is running")

    def _try(self, action: Callable[[], object], message: str) -> None:
        try:
            action()
        except MagicError as error:
            self.app.call_from_thread(self.magic.show_message, str(error), "warning")
        else:
            self.app.call_from_thread(self.magic.show_message, message)
