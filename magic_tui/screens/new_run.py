"""Starting a run: a config, its main fields, what it would cost, and then the run."""

from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static
from textual.worker import get_current_worker

from engine.contract.config import RunConfig, as_plain
from engine.contract.errors import MagicError
from engine.records.naming import new_run_id
from magic_tui.cli.submit import FOREIGN_CODE
from magic_tui.client.plan import Draft, cost_of
from magic_tui.client.worker import Facts
from magic_tui.render.plan import plan_lines
from magic_tui.screens.base import MagicScreen
from magic_tui.selection import Selection
from magic_tui.widgets.field_list import FieldList
from magic_tui.widgets.head import Head
from magic_tui.widgets.line_list import LineList
from magic_tui.widgets.prompt import Prompt


class NewRunScreen(MagicScreen):
    """The cost is counted before a run can be started, and again after every change."""

    NAME = "New run"
    ABOUT = (
        "The main fields of a config; Enter edits one. The cost is counted by reading the data and "
        "timing a step. The config file itself is not changed."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "start", "start", tooltip="Start the run."),
        Binding("p", "count_cost", "cost", tooltip="Count the cost anew after a change."),
        Binding("f", "file", "file", tooltip="Read another config file."),
        Binding("escape", "leave", "back", tooltip="Leave without starting anything."),
    ]
    DEFAULT_CSS = """
    NewRunScreen FieldList { margin: 0 1; }
    NewRunScreen VerticalScroll {
        height: 1fr; padding: 0 1;
        border-top: solid $border-blurred; border-title-color: $text-muted;
    }
    NewRunScreen #cost { height: auto; }
    """

    def __init__(self, config: Path | None = None) -> None:
        """Begin with a config file, or ask for one."""
        super().__init__()
        self._file = config
        self._draft: Draft | None = None
        self._counted: dict[str, object] | None = None
        """The values whose cost is shown."""
        self._counting = False
        self._facts: Facts | None = None

    def body(self) -> ComposeResult:
        """Fields above, cost below."""
        yield FieldList()
        with VerticalScroll(can_focus=False):
            yield Static(id="cost")
        yield Prompt()

    def on_mount(self) -> None:
        """Read the file."""
        self.query_one(FieldList).focus()
        if self._file is None:
            self.call_after_refresh(self.action_file)
        else:
            self._read(self._file)

    def selection_changed(self, selection: Selection) -> None:
        """Nothing of the selection is shown."""

    def cli_equivalent(self) -> str:
        """Run the config as it is in its file."""
        return f"magic run {self._file or 'CONFIG'}"

    def why_not(self, action: str) -> str | None:
        """A run starts once its cost is known."""
        if action in ("start", "count_cost", "choose") and self._draft is None:
            return "no config was read yet: f names its file"
        if action in ("start", "count_cost") and not self.query_one(FieldList).is_good:
            return "something is wrong with a field: see beside it"
        if self._counting and action in ("start", "count_cost"):
            return "the cost is being counted"
        if action == "start" and (self._draft is None or self._counted != self._draft.values):
            return "its cost is not known yet: p counts it"
        return None

    def on_line_list_chosen(self, event: LineList.Chosen) -> None:
        """Edit a field."""
        fields = self.query_one(FieldList)
        field, draft = fields.current, self._draft
        if field is not None and draft is not None:
            key = field.key

            def changed(text: str) -> None:
                draft.change(key, text.strip())
                self.problem(None)
                self._edited()

            self.query_one(Prompt).open(field.name, draft.text(key), changed)

    def action_page(self, pages: int) -> None:
        """Scroll the cost where it is longer than its place."""
        box = self.query_one(VerticalScroll)
        box.scroll_relative(y=pages * max(1, box.size.height - 1), animate=False)

    def action_file(self) -> None:
        """Ask for a config file."""
        shown = str(self._file) if self._file is not None else ""
        self.query_one(Prompt).open("config file", shown, self._named)

    def action_leave(self) -> None:
        """Leave."""
        self.app.pop_screen()

    def action_count_cost(self) -> None:
        """Find out what the run would take."""
        if self._draft is None:
            return
        try:
            config = self._draft.config()
        except MagicError as error:
            self.problem(str(error))
            return
        self.problem(None)
        self._counting, self._facts = True, None
        self._show_cost()
        self._count(config, dict(self._draft.values))

    def action_start(self) -> None:
        """Start the run."""
        assert self._draft is not None
        self._start(self._draft.config())

    def _named(self, text: str) -> None:
        if text.strip():
            self._read(Path(text.strip()).expanduser())
        elif self._draft is None:
            self.action_leave()

    def _read(self, path: Path) -> None:
        try:
            self._draft = Draft(path)
        except MagicError as error:
            self.problem(f"{error} (f names another file)")
            return
        self._file = path
        self.problem(None)
        self.query_one(Head).note(path.name)
        self._edited()
        self.action_count_cost()

    def _edited(self) -> None:
        self.query_one(FieldList).show(self._draft)
        self._show_cost()

    def _show_cost(self) -> None:
        width = max(20, self.size.width - 4)
        lines = list(plan_lines(self._facts, width)) if self._facts is not None else []
        if self._counting:
            lines = [Text("counting the cost: reading the data and timing a step …", "dim")]
        elif not self.query_one(FieldList).is_good:
            lines = []
        elif self._draft is not None and self._counted != self._draft.values:
            changed = "changed since the cost was counted: p counts it anew"
            unknown = "its cost is not known: p tries again"
            lines = [Text(f"! {changed if self._counted else unknown}", "color(215)")]
        if self._draft is not None and self._draft.values["model"].get("trust_remote_code"):
            lines.append(Text(f"! {FOREIGN_CODE}", "color(215)"))
        self.query_one("#cost", Static).update(Content.from_rich_text(Text("\n").join(lines)))
        self.refresh_bindings()
        self.call_after_refresh(self._name_cost)

    def _name_cost(self) -> None:
        """Say above the cost how to see what of it does not fit."""
        box = self.query_one(VerticalScroll)
        more = box.max_scroll_y > 0
        box.border_title = "what it takes – pgdn shows the rest" if more else "what it takes"

    def on_resize(self, event: events.Resize) -> None:
        """Wrap the cost anew."""
        self._show_cost()

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
        self.problem(problem)
        if problem is not None:
            self.query_one(FieldList).tell(problem)
        self._show_cost()

    @work(thread=True, exclusive=True, group="start", exit_on_error=False)
    def _start(self, config: RunConfig) -> None:
        try:
            view = self.magic.start_engine().submit(new_run_id(), as_plain(config))
        except MagicError as error:
            self.app.call_from_thread(self.problem, str(error))
            return
        self.app.call_from_thread(self._started, view["id"])

    def _started(self, run_id: str) -> None:
        self.app.pop_screen()
        self.magic.select(run=run_id)
        self.magic.open_screen(2)
