"""Screen 2: what a run does now, or did at any point of its recorded history."""

import time
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Static

from engine.runs.events import PhaseStarted
from engine.runs.states import View
from magic_tui.live.live_feed import LiveFeed
from magic_tui.live.live_lines import now_lines, usage_lines
from magic_tui.live.live_widgets import Charts, MessageList, ResidencyStrip
from magic_tui.runs.run_actions import RunActions
from magic_tui.text.numbers import share_text
from magic_tui.widgets.header import Header
from magic_tui.widgets.prompt import Prompt
from magic_tui.widgets.selection import Selection

if TYPE_CHECKING:
    from engine.runs.run_history import Snapshot

_REPAINT_SECONDS = 1.0
_STRIDES = 50
"""Presses of ``[`` from the end of the history to its beginning."""


class LiveScreen(RunActions):
    """The residency strip, curves, memory and log of one run."""

    NUMBER = 2
    NAME = "Live"
    ABOUT = (
        "TRAIN: trained steps. STORE: train states on disk (D) or in memory (R). REPLAY: the query "
        "loss φ is differentiated back from the last step to the first, and states that are not "
        "stored are rebuilt on the way. [ and ] step through the recorded history."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left_square_bracket", "scrub(-1)", "back", tooltip="Back in the history."),
        Binding("right_square_bracket", "scrub(1)", "forth", tooltip="Forward in the history."),
        Binding("left_curly_bracket", "chapter(-1)", show=False, tooltip="To the previous phase."),
        Binding("right_curly_bracket", "chapter(1)", show=False, tooltip="To the next phase."),
        Binding("full_stop", "now", "now", tooltip="Back to the present."),
        Binding("plus,equals_sign", "zoom(2)", "zoom", tooltip="Show fewer steps, larger."),
        Binding("minus", "zoom(0.5)", show=False, tooltip="Show more steps."),
        Binding("0", "zoom(0.000001)", show=False, tooltip="Show all steps."),
        Binding("less_than_sign,H", "pan(-0.25)", show=False, tooltip="Earlier steps."),
        Binding("greater_than_sign,L", "pan(0.25)", show=False, tooltip="Later steps."),
        Binding("o", "log", "log", tooltip="Switch between events and library output."),
        Binding("colon", "go_to", show=False, tooltip="Go to the training of a step."),
        Binding("i", "influences", "influences", tooltip="Go to the latest scores."),
        Binding("y", "copy", show=False, tooltip="Copy the log."),
    ]
    DEFAULT_CSS = """
    LiveScreen #now { height: auto; min-height: 2; max-height: 4; padding: 0 1; }
    LiveScreen #usage { height: auto; max-height: 10; padding: 0 1; margin: 0 0 1 0; }
    """

    def __init__(self) -> None:
        """Follow nothing yet."""
        super().__init__()
        self.feed = LiveFeed(self, self._show_first_events)
        self._at: int | None = None
        """Number of the event that the screen shows the run at; None for the latest."""
        self._shows_printed = False
        self._binding_state: tuple[str | None, bool] = (None, False)
        """What the enabled keys depend on."""
        self._painted: dict[str, Text] = {}

    def body(self) -> ComposeResult:
        """State, strip, curves, machine, messages."""
        yield Static(id="now")
        yield ResidencyStrip()
        yield Charts()
        yield Static(id="usage")
        yield MessageList()
        yield Prompt()

    def on_mount(self) -> None:
        """Repaint at most once a second, and only if something changed."""
        self.set_interval(_REPAINT_SECONDS, self._repaint_if_needed)
        self.query_one(MessageList).focus()

    def selection_changed(self, selection: Selection) -> None:
        """Follow another run."""
        if selection.folder is None:
            self.show_problem("no run is selected: 1 lists the runs, n there starts one")
        else:
            self.show_problem(None)
            if self.feed.follow(selection.folder):
                self._at, self._shows_printed = None, False
        self.feed.is_dirty = True
        self._repaint_if_needed()

    def on_screen_suspend(self, event: events.ScreenSuspend) -> None:
        """Stop reading while the screen is hidden, unless a dialog covers it."""
        if self.magic.current_screen is not self:
            self.feed.stop()

    def on_unmount(self) -> None:
        """Stop reading."""
        self.feed.stop()

    def on_resize(self, event: events.Resize) -> None:
        """Divide the new height."""
        height = self.size.height
        self.query_one(Charts).styles.height = max(5, min(14, (height - 12) // 2))
        self.feed.is_dirty = True
        self.call_after_refresh(self._repaint_if_needed)

    def cli_equivalent(self) -> str:
        """``magic watch``, or ``magic logs`` for library output."""
        run = self.selection.run
        if run is None:
            return "magic ls"
        return f"magic logs {run}" if self._shows_printed else f"magic watch {run}"

    def chosen_run(self) -> View | None:
        """The engine's view of the followed run."""
        return self.feed.run_view

    def disabled_reason(self, action: str) -> str | None:
        """Scrubbing needs recorded events, zooming a trained step."""
        count = self._count
        if action in ("scrub", "chapter", "now", "go_to") and not count:
            return "nothing is recorded yet"
        if action == "now" and self._at is None:
            return "this is the present"
        if (
            action == "zoom"
            and self.query(ResidencyStrip)
            and not self.query_one(ResidencyStrip).snapshot
        ):
            return "no step was trained yet"
        return self.why_unavailable(action, self.feed.run_view)

    def action_scrub(self, way: int) -> None:
        """Go back or forward by 1/50 of the history."""
        last = self._count - 1
        stride = max(1, round(last / _STRIDES))
        here = last if self._at is None else self._at
        self._go(here + way * stride)

    def action_chapter(self, way: int) -> None:
        """Go to the beginning of the previous or next phase."""
        last = self._count - 1
        here = last if self._at is None else self._at
        assert self.feed.history is not None
        messages = self.feed.history.messages
        starts = [each.number for each in messages if isinstance(each.event, PhaseStarted)]
        if way < 0:
            self._go(max((start for start in starts if start < here), default=0))
        else:
            self._go(min((start for start in starts if start > here), default=last))

    def action_now(self) -> None:
        """Go to the latest event."""
        self._go(self._count)

    def action_zoom(self, factor: float) -> None:
        """Show fewer or more steps."""
        self.query_one(ResidencyStrip).zoom(factor)
        self.repaint()

    def action_pan(self, share: float) -> None:
        """Show earlier or later steps."""
        self.query_one(ResidencyStrip).pan(share)
        self.repaint()

    def action_log(self) -> None:
        """Switch between the events and what libraries printed."""
        self._shows_printed = self.feed.wants_printed = not self._shows_printed
        self.repaint()

    def action_go_to(self) -> None:
        """Prompt for a step and go to the event of its training."""
        self.query_one(Prompt).open("step", "", self._go_to_step)

    def action_influences(self) -> None:
        """Go to the latest scores."""
        self.magic.select(attribution=self.selection.latest)
        self.magic.open_screen(4)

    def action_copy(self) -> None:
        """Copy the log."""
        messages = self.query_one(MessageList)
        text = "\n".join(messages.line(i, 200).plain for i in range(messages.count()))
        self.magic.copy(text, "log")

    @property
    def _count(self) -> int:
        """How many events were read."""
        return 0 if self.feed.history is None else self.feed.history.count

    def _go(self, number: int) -> None:
        self._at = None if number >= self._count - 1 else max(0, number)
        self.refresh_bindings()
        self.repaint()

    def _go_to_step(self, text: str) -> None:
        assert self.feed.history is not None
        train = self.feed.history.train
        try:
            row = train.values["step"].index(float(text))
        except ValueError:
            self.magic.show_message(f"no step {text!r} was trained; steps count from 0", "warning")
            return
        self._go(train.numbers[row])

    def _repaint_if_needed(self) -> None:
        if self.feed.is_dirty and self.is_mounted:
            self.repaint()

    def _show_first_events(self) -> None:
        if self.is_mounted:
            self.repaint()

    def repaint(self) -> None:
        """Paint all regions."""
        feed = self.feed
        feed.is_dirty = False
        state = (feed.run_view or {}).get("state"), self._count > 0
        if state != self._binding_state:
            self._binding_state = state
            self.refresh_bindings()
        if feed.history is None:
            self._paint("#now", [Text("reading the journal …", "dim"), Text()])
            return
        snapshot = feed.history.at(self._at)
        if self._at is None and feed.is_removed:
            snapshot = snapshot.without_states()
        self._paint_snapshot(snapshot)
        messages = self.query_one(MessageList)
        if self._shows_printed:
            messages.set_printed(feed.printed)
        else:
            messages.set_messages(feed.history.messages_until(snapshot.number))
        self.query_one(Header).note("" if self._at is None else self._note(snapshot))

    def _paint_snapshot(self, snapshot: "Snapshot") -> None:
        feed, width = self.feed, max(20, self.size.width - 2)
        strip = self.query_one(ResidencyStrip)
        strip.set_snapshot(snapshot)
        self.query_one(Charts).set_snapshot(snapshot, strip.window)
        self._paint("#now", now_lines(snapshot, feed.run_view if self._at is None else None, width))
        usage = usage_lines(snapshot, feed.run_view, feed.engine_view, feed.budget, width)
        self._paint("#usage", list(usage))

    def _paint(self, selector: str, lines: list[Text]) -> None:
        text = Text("\n", no_wrap=True).join(lines)
        if text == self._painted.get(selector):
            return
        self._painted[selector] = text
        region = self.query_one(selector, Static)
        # A layout of the whole screen takes ten times as long as painting one region.
        region.update(Content.from_rich_text(text), layout=region.size.height != len(lines))

    def _note(self, snapshot: "Snapshot") -> str:
        share = share_text(snapshot.number / max(1, self._count - 1))
        return f"history {share}, {time.strftime('%H:%M:%S', time.localtime(snapshot.time))}"
