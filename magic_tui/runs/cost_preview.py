"""Counting what a run would take, and showing it or why it cannot be counted."""

import contextlib

from rich.text import Text
from textual import events, work
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static
from textual.worker import get_current_worker

from engine.runs.config import RunConfig
from engine.runs.errors import MagicError
from engine.runs.loaded_code import code_of
from engine.runs.safe_text import one_line
from magic_tui.client.worker import Facts
from magic_tui.runs.config_draft import Draft, cost_of
from magic_tui.runs.field_list import FieldList
from magic_tui.runs.plan_lines import plan_lines
from magic_tui.widgets.screen import MagicScreen


class CountingScreen(MagicScreen):
    """Has a list of fields, and below it a place for the cost of the config they make."""

    def __init__(self) -> None:
        """Nothing was read or counted yet."""
        super().__init__()
        self._draft: Draft | None = None
        self._counted: dict[str, object] | None = None
        """The values whose cost is shown."""
        self._counting = False
        self._trouble: str | None = None
        """What is wrong with more than a field."""
        self._facts: Facts | None = None

    def action_count_cost(self) -> None:
        """Find out what the run would take."""
        if self._draft is None:
            return
        try:
            config = self._draft.config()
        except MagicError as error:
            self._tell_problem(str(error))
            return
        self._tell_problem(None)
        self._counting, self._facts = True, None
        self._show_cost()
        self._count(config, dict(self._draft.values))

    def action_page(self, pages: int) -> None:
        """Scroll the cost where it is longer than its place."""
        box = self.query_one(VerticalScroll)
        box.scroll_relative(y=pages * max(1, box.size.height - 1), animate=False)

    def on_resize(self, event: events.Resize) -> None:
        """Wrap the cost anew."""
        self._show_cost()

    def _tell_problem(self, *trouble: str | None) -> None:
        """Say what is wrong with the field under the cursor, or else with all of it."""
        if trouble:
            self._trouble = trouble[0]
        self.show_problem(self.query_one(FieldList).error or self._trouble)

    def _show_cost(self) -> None:
        if self not in self.app.screen_stack:
            # What was asked for before it was left comes too late.
            return
        width = max(20, self.size.width - 4)
        lines = list(plan_lines(self._facts, width)) if self._facts is not None else []
        if self._counting:
            lines = [Text("counting the cost: reading the data and timing a step …", "dim")]
        elif not self.query_one(FieldList).is_good:
            lines = []
        elif self._draft is not None and self._counted != self._draft.values:
            lines = [Text("! its cost is not known: p tries again", "color(215)")]
        if self._draft is not None:
            with contextlib.suppress(MagicError):
                code = code_of(self._draft.config())
                lines += [Text(f"! runs code: {one_line(line)}", "color(215)") for line in code]
        self.query_one("#cost", Static).update(Content.from_rich_text(Text("\n").join(lines)))
        self.refresh_bindings()
        self.call_after_refresh(self._name_cost)

    def _name_cost(self) -> None:
        """Say above the cost how to see what of it does not fit."""
        if self not in self.app.screen_stack:
            return
        box = self.query_one(VerticalScroll)
        more = box.max_scroll_y > 0
        box.border_title = "what it takes – pgdn shows the rest" if more else "what it takes"

    @work(thread=True, exclusive=True, group="cost", exit_on_error=False)
    def _count(self, config: RunConfig, values: dict[str, object]) -> None:
        facts, problem, worker = None, None, get_current_worker()
        try:
            facts = cost_of(config, self.selection.runs_dir, lambda: worker.is_cancelled)
        except (MagicError, OSError) as error:
            problem = str(error)
        if not worker.is_cancelled:
            self.app.call_from_thread(self._take_cost, values, facts, problem)

    def _take_cost(
        self, values: dict[str, object], facts: Facts | None, problem: str | None
    ) -> None:
        self._counting, self._facts = False, facts
        self._counted = values if facts is not None else None
        if self not in self.app.screen_stack:
            return
        self._tell_problem(problem)
        if problem is not None:
            self.query_one(FieldList).tell(problem)
        self._show_cost()
