"""Screen 2: what a run does now, or did at any moment of its recorded history."""

import time
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Static

from engine.runs.events import Event
from engine.runs.states import View
from magic_tui.live.charts import Charts
from magic_tui.live.event_list import StoryList
from magic_tui.live.live_feed import Feed
from magic_tui.live.now_lines import now_lines
from magic_tui.live.residency_widget import Residency
from magic_tui.live.usage_lines import usage_lines
from magic_tui.runs.run_actions import RunActions
from magic_tui.text.numbers import share_text
from magic_tui.widgets.header import Header
from magic_tui.widgets.prompt import Prompt
from magic_tui.widgets.screen import MagicScreen
from magic_tui.widgets.selection import Selection

if TYPE_CHECKING:
    from magic_tui.live.run_history import Snapshot

_REPAINT_SECONDS = 1.0
_SCRUBS = 50
"""Presses of ``[`` from the end of the history to its beginning."""


class LiveScreen(RunActions, Feed, MagicScreen):
    """The residency strip, curves, memory and log of one run."""

    NUMBER = 2
    NAME = "Live"
    ABOUT = (
        "TRAIN: steps trained. STORE: which train states are on disk (D) or in memory (R). REPLAY: "
        "the cotangent, the derivative of the query's loss, is carried from the last step back to "
        "the first; states that were not kept are rebuilt on the way. [ and ] go through the "
        "recorded history."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left_square_bracket", "scrub(-1)", "back", tooltip="Back in the history."),
        Binding("right_square_bracket", "scrub(1)", "forth", tooltip="On in the history."),
        Binding("left_curly_bracket", "chapter(-1)", show=False, tooltip="To the phase before."),
        Binding("right_curly_bracket", "chapter(1)", show=False, tooltip="To the next phase."),
        Binding("full_stop", "now", "now", tooltip="Leave the history: to what is now."),
        Binding("plus,equals_sign", "zoom(2)", "zoom", tooltip="Show fewer steps, larger."),
        Binding("minus", "zoom(0.5)", show=False, tooltip="Show more steps."),
        Binding("0", "zoom(0.000001)", show=False, tooltip="Show all steps."),
        Binding("less_than_sign,H", "pan(-0.25)", show=False, tooltip="Earlier steps."),
        Binding("greater_than_sign,L", "pan(0.25)", show=False, tooltip="Later steps."),
        Binding("o", "log", "log", tooltip="The log of events, or what libraries printed."),
        Binding("colon", "go_to", show=False, tooltip="Go to when a step was trained."),
        Binding("i", "influences", "influences", tooltip="Go to the latest scores."),
        Binding("y", "copy", show=False, tooltip="Copy the log."),
    ]
    DEFAULT_CSS = """
    LiveScreen #now { height: auto; min-height: 2; max-height: 4; padding: 0 1; }
    LiveScreen #usage { height: auto; max-height: 10; padding: 0 1; margin: 0 0 1 0; }
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        super().__init__()
        self._at: int | None = None
        """The event that the history stands at; None for now."""
        self._printed = False
        self._states: tuple[str | None, bool] = (None, False)
        """What the keys that can be pressed depend on."""
        self._painted: dict[str, Text] = {}

    def body(self) -> ComposeResult:
        """State, strip, curves, machine, log."""
        yield Static(id="now")
        yield Residency()
        yield Charts()
        yield Static(id="usage")
        yield StoryList()
        yield Prompt()

    def on_mount(self) -> None:
        """Repaint once a second at most, and only if something changed."""
        self.set_interval(_REPAINT_SECONDS, self._repaint_if_needed)
        self.query_one(StoryList).focus()

    def selection_changed(self, selection: Selection) -> None:
        """Follow another run."""
        if selection.folder is None:
            self.show_problem("no run is chosen: 1 lists them, n there starts one")
        else:
            self.show_problem(None)
            if self.follow(selection.folder):
                self._at, self._printed, self.wants_printed = None, False, False
        self.dirty = True
        self._repaint_if_needed()

    def on_screen_suspend(self, event: events.ScreenSuspend) -> None:
        """Read nothing while nobody looks, except under a dialog."""
        if self.magic.current_screen is not self:
            self.rest()

    def on_resize(self, event: events.Resize) -> None:
        """Share the height out anew."""
        height = self.size.height
        self.query_one(Charts).styles.height = max(5, min(14, (height - 12) // 2))
        self.dirty = True
        self.call_after_refresh(self._repaint_if_needed)

    def cli_equivalent(self) -> str:
        """Follow the run."""
        run = self.selection.run
        if run is None:
            return "magic ls"
        return f"magic logs {run}" if self._printed else f"magic watch {run}"

    def chosen_run(self) -> View | None:
        """The run that is followed, as the engine knows it."""
        return self.run_view

    def disabled_reason(self, action: str) -> str | None:
        """Scrubbing needs a history, scores have to be there."""
        count = self._count
        if action in ("scrub", "chapter", "now", "go_to") and not count:
            return "nothing is recorded yet"
        if action == "now" and self._at is None:
            return "this is now"
        if action == "zoom" and self.query(Residency) and not self.query_one(Residency).moment:
            return "no step was trained yet"
        return self.why_unavailable(action, self.run_view)

    def action_scrub(self, way: int) -> None:
        """Go back or on by a fiftieth of the history."""
        last = self._count - 1
        stride = max(1, round(last / _SCRUBS))
        here = last if self._at is None else self._at
        self._go(here + way * stride)

    def action_chapter(self, way: int) -> None:
        """Go to where a phase begins."""
        last = self._count - 1
        here = last if self._at is None else self._at
        assert self.recording is not None
        starts = [e["seq"] for e in self.recording.story if e["event"] == Event.PHASE]
        found = [s for s in starts if (s < here if way < 0 else s > here)]
        self._go((found[-1] if way < 0 else found[0]) if found else (0 if way < 0 else last))

    def action_now(self) -> None:
        """Leave the history."""
        self._go(self._count)

    def action_zoom(self, factor: float) -> None:
        """Show fewer or more steps."""
        self.query_one(Residency).zoom(factor)
        self.repaint()

    def action_pan(self, share: float) -> None:
        """Show earlier or later steps."""
        self.query_one(Residency).pan(share)
        self.repaint()

    def action_log(self) -> None:
        """Change between the events and what was printed."""
        self._printed = self.wants_printed = not self._printed
        self.repaint()

    def action_go_to(self) -> None:
        """Ask for a step and go to when it was trained."""
        self.query_one(Prompt).open("step", "", self._go_to_step)

    def action_influences(self) -> None:
        """Go to the scores that were made last."""
        self.magic.select(attribution=self.selection.latest)
        self.magic.open_screen(4)

    def action_copy(self) -> None:
        """Copy the log."""
        story = self.query_one(StoryList)
        text = "\n".join(story.line(index, 200).plain for index in range(story.count()))
        self.magic.copy(text, "log")

    @property
    def _count(self) -> int:
        """How many events were read."""
        return 0 if self.recording is None else self.recording.count

    def _go(self, seq: int) -> None:
        self._at = None if seq >= self._count - 1 else max(0, seq)
        self.refresh_bindings()
        self.repaint()

    def _go_to_step(self, text: str) -> None:
        assert self.recording is not None
        steps = self.recording.train.values["step"]
        try:
            place = steps.index(float(text))
        except ValueError:
            self.magic.show_message(f"no step {text!r} was trained; steps count from 0", "warning")
            return
        self._go(self.recording.train.seqs[place])

    def _repaint_if_needed(self) -> None:
        if self.dirty and self.is_mounted:
            self.repaint()

    def repaint(self) -> None:
        """Show everything anew."""
        self.dirty = False
        states = (self.run_view or {}).get("state"), self._count > 0
        if states != self._states:
            self._states = states
            self.refresh_bindings()
        if self.recording is None:
            self._show("#now", [Text("reading what was recorded …", "dim"), Text()])
            return
        moment = self.recording.at(self._at)
        if self._at is None and self.is_removed:
            moment = moment.without_states()
        strip = self.query_one(Residency)
        strip.show(moment)
        self.query_one(Charts).show(moment, strip.window)
        width = max(20, self.size.width - 2)
        now = self.run_view if self._at is None else None
        self._show("#now", now_lines(moment, now, width))
        lines = usage_lines(moment, self.run_view, self.engine_view, self.budget, width)
        self._show("#usage", list(lines))
        story = self.query_one(StoryList)
        if self._printed:
            story.print(self.printed)
        else:
            story.tell(self.recording.story_until(moment.seq))
        self.query_one(Header).note("" if self._at is None else self._note(moment))

    def _show(self, where: str, lines: list[Text]) -> None:
        shown = Text("\n", no_wrap=True).join(lines)
        if shown == self._painted.get(where):
            return
        self._painted[where] = shown
        place = self.query_one(where, Static)
        # Laying out all of a screen takes ten times as long as painting one region.
        place.update(Content.from_rich_text(shown), layout=place.size.height != len(lines))

    def _note(self, moment: "Snapshot") -> str:
        share = share_text(moment.seq / max(1, self._count - 1))
        return f"history {share}, {time.strftime('%H:%M:%S', time.localtime(moment.time))}"
