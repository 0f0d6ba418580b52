"""Screen 1: the runs, what each is doing, and one of them in detail."""

import contextlib
import time
from typing import ClassVar

from rich.text import Text
from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.timer import Timer
from textual.widgets import Static
from textual.worker import get_current_worker

from engine.evaluation.summary import LdsIndex
from engine.runs.errors import MagicError
from engine.runs.safe_text import one_line
from engine.runs.states import RunState, View
from magic_tui.client.engine import UNREADABLE, standing
from magic_tui.runs.glance import glance, runs_on_disk
from magic_tui.runs.run_actions import RunActions
from magic_tui.runs.run_list import RunList, difference_lines, head_line
from magic_tui.runs.status_lines import run_detail
from magic_tui.widgets.header import Header
from magic_tui.widgets.prompt import Prompt
from magic_tui.widgets.selection import Selection
from magic_tui.widgets.virtual_list import VirtualList

_OF_A_RUN = ("Live", "Queries", "Influences", "Document", "Why", "Over training", "Trust")
"""The screens that show one run, from 2 on."""
_BUSY_SECONDS, _IDLE_SECONDS, _STALE_SECONDS = 1.0, 3.0, 20.0


class RunsScreen(RunActions):
    """A list above, the run under the cursor below."""

    NUMBER = 1
    NAME = "Runs"
    ABOUT = (
        "The runs of this folder, newest first. Enter opens a run: its training while it runs, its "
        "scores once they are complete. Mark a run with space to compare its config with others."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "app.new", "new", tooltip="Start a run from a config; shows its cost first."),
        Binding("slash", "filter", "filter", tooltip="List runs that match a text."),
        Binding("space", "mark", "mark", tooltip="Mark a run to compare others with it."),
        Binding("D", "remove", "remove", tooltip="Remove the run from disk, after confirmation."),
        Binding("w", "app.screen(0)", show=False, tooltip="Welcome screen: demo and samples."),
        Binding("y", "copy", show=False, tooltip="Copy the run's id."),
        *(
            Binding(str(n), f"look({n})", show=False, tooltip=f"Open {name} of this run.")
            for n, name in enumerate(_OF_A_RUN, 2)
        ),
    ]
    DEFAULT_CSS = """
    RunsScreen #columns { height: 1; color: $text-muted; }
    RunsScreen #detail { height: auto; max-height: 55%; border-top: solid $border-blurred;
                         padding: 0 1; }
    """

    def __init__(self) -> None:
        """An empty screen."""
        super().__init__()
        self._runs: list[View] | None = None
        self._filter = ""
        self._marked: str | None = None
        self._timer: Timer | None = None
        self._drawn = 0.0
        self._lds = LdsIndex()

    def body(self) -> ComposeResult:
        """Columns, list, details, prompt."""
        yield Static(id="columns")
        yield RunList()
        yield Static(id="detail")
        yield Prompt()

    def on_mount(self) -> None:
        """Start polling."""
        self._timer = self.set_interval(_BUSY_SECONDS, self._tick)
        self.query_one(RunList).focus()

    def on_screen_suspend(self, event: events.ScreenSuspend) -> None:
        """Stop polling."""
        if self._timer is not None and self.magic.current_screen is not self:
            self._timer.pause()

    def selection_changed(self, selection: Selection) -> None:
        """Poll at once."""
        if self._timer is not None:
            self._timer.resume()
        # After the next frame: importing the reader takes long.
        self.call_after_refresh(self._poll)

    def on_resize(self, event: events.Resize) -> None:
        """Choose the columns that fit."""
        self._redraw()

    def cli_equivalent(self) -> str:
        """``magic status`` of the run under the cursor, or ``magic ls``."""
        run = self.chosen_run()
        return "magic ls" if run is None else f"magic status {run['id']}"

    def chosen_run(self) -> View | None:
        """The run under the cursor."""
        lists = self.query(RunList)
        return lists.first().current if lists else None

    def disabled_reason(self, action: str) -> str | None:
        """Most actions need a run."""
        run = self.chosen_run()
        if action in ("mark", "remove", "copy", "choose") and run is None:
            return "there is no run here; n starts one"
        if action == "remove" and run is not None and not _is_over(run):
            return f"run {run['id']} is {standing(run)[0]}: cancel it first with x"
        return self.why_unavailable(action, run)

    def on_virtual_list_moved(self, event: VirtualList.Moved) -> None:
        """Show another run's details."""
        self._show_detail()
        self.refresh_bindings()

    def on_virtual_list_chosen(self, event: VirtualList.Chosen) -> None:
        """Open Influences if scores are complete, else Live."""
        run = self.chosen_run()
        if run is not None:
            self.magic.select(run=run["id"])
            over = run["attributions"] and (_is_over(run) or run["state"] == UNREADABLE)
            if over:
                self.magic.select(attribution=self.selection.latest)
            self.magic.open_screen(4 if over else 2)

    def action_look(self, number: int) -> None:
        """Open a screen."""
        self.go_to(number)

    def go_to(self, number: int) -> None:
        """Open a screen of the run under the cursor."""
        run = self.chosen_run()
        if run is not None and number > self.NUMBER:
            self.magic.select(run=run["id"])
        self.magic.open_screen(number)

    def action_filter(self) -> None:
        """Prompt for a filter."""
        self.query_one(Prompt).open("filter", self._filter, self._set_filter, self._set_filter)

    def action_mark(self) -> None:
        """Mark or unmark the run under the cursor."""
        run = self.chosen_run()
        assert run is not None
        self._marked = None if self._marked == run["id"] else run["id"]
        self._redraw()

    def action_copy(self) -> None:
        """Copy the run's id."""
        run = self.chosen_run()
        assert run is not None
        self.magic.copy(run["id"], "run")

    def action_remove(self) -> None:
        """Remove the run after confirmation."""
        run = self.chosen_run()
        assert run is not None
        self.ask_to_remove(run, self._poll)

    def _set_filter(self, text: str) -> None:
        self._filter = text.strip().lower()
        self._redraw()

    def _tick(self) -> None:
        if self._timer is not None:
            busy = any(not _is_over(run) for run in self._runs or ())
            self._timer._interval = _BUSY_SECONDS if busy else _IDLE_SECONDS
        self._poll()

    @work(thread=True, exclusive=True, group="runs", exit_on_error=False)
    def _poll(self) -> None:
        problem = None
        try:
            runs = glance(self.magic.engine()).runs
        except MagicError as error:
            problem = str(error)
            runs = runs_on_disk(self.selection.runs_dir)
        runs = self._lds.with_lds(runs)
        if not get_current_worker().is_cancelled:
            self.app.call_from_thread(self._update, runs[::-1], problem)

    def _update(self, runs: list[View], problem: str | None) -> None:
        first, before = self._runs is None, self._runs
        self._runs = runs
        self.show_problem(problem)
        # Ages change all the time, but redrawing them occasionally is enough.
        if runs != before or time.monotonic() - self._drawn > _STALE_SECONDS:
            self._redraw()
        if first and self.selection.run is not None:
            ids = [run["id"] for run in runs]
            with contextlib.suppress(ValueError):
                self.query_one(RunList).move_to(ids.index(self.selection.run))

    def _redraw(self) -> None:
        if not self.is_mounted or self._runs is None:
            return
        self._drawn = time.monotonic()
        listed = [run for run in self._runs if self._filter in _searchable(run)]
        self.query_one("#columns", Static).update(
            Content.from_rich_text(head_line(self.size.width - 1))
        )
        self.query_one(RunList).update(listed, self._marked)
        note = f"{len(listed)} of {len(self._runs)}" if self._filter else str(len(self._runs))
        self.query_one(Header).note(f"{note} in {one_line(str(self.selection.runs_dir))}")
        self._show_detail()
        self.refresh_bindings()

    def _show_detail(self) -> None:
        run, width = self.chosen_run(), max(20, self.size.width - 2)
        if run is None:
            note = "no runs yet: n starts one from a config, w shows the demo and samples"
            note = "no run matches the filter" if self._filter else note
            self.query_one("#detail", Static).update(Content(note))
            return
        marked = next((r for r in self._runs or () if r["id"] == self._marked), None)
        if marked is not None and marked["id"] != run["id"]:
            lines = list(difference_lines(marked, run, width))
        else:
            lines = list(run_detail(run, width))
        text = Text("\n", no_wrap=True).join(lines[: max(4, self.size.height // 2)])
        self.query_one("#detail", Static).update(Content.from_rich_text(text))


def _is_over(run: View) -> bool:
    state = standing(run)[0]
    return state == UNREADABLE or RunState(state).settled


def _searchable(run: View) -> str:
    return f"{run['id']} {run['name']} {run['model']} {standing(run)[0]}".lower()
