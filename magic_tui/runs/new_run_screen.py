"""The New run screen: a config, its main fields, the estimated cost, and the start."""

import contextlib
from pathlib import Path
from typing import ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static
from textual.worker import get_current_worker

from engine.runs.config import RunConfig, as_plain
from engine.runs.errors import MagicError
from engine.runs.loaded_code import code_of
from engine.runs.run_folder import new_run_id
from engine.runs.safe_text import one_line
from magic_tui.client.worker import Facts
from magic_tui.runs.config_draft import FIELDS, Draft, Field, Key, cost_of, field_of
from magic_tui.runs.plan_lines import plan_lines
from magic_tui.runs.welcome_screen import Offer, OfferList, offers
from magic_tui.text.cells import fit, pad
from magic_tui.widgets.header import Header
from magic_tui.widgets.prompt import Prompt
from magic_tui.widgets.screen import MagicScreen
from magic_tui.widgets.selection import Selection
from magic_tui.widgets.virtual_list import VirtualList

_NAME_WIDTH, _LEAST_VALUE = 15, 14
_WARNING = "color(215)"


class FieldList(VirtualList):
    """The main fields with their problems; below them problems of other fields."""

    DEFAULT_CSS = """
    FieldList { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("pagedown,ctrl+f,ctrl+d", "screen.page(1)", show=False, tooltip="Scroll the cost."),
        Binding("pageup,ctrl+u", "screen.page(-1)", show=False, tooltip="Scroll the cost back."),
    ]

    def __init__(self) -> None:
        """No fields."""
        super().__init__()
        self.draft: Draft | None = None
        self._problems: dict[Key, str] = {}
        """Problems of the config alone."""
        self._worker_problems: dict[Key, str] = {}
        """Problems found while estimating the cost."""

    def update(self, draft: Draft | None) -> None:
        """Show a draft."""
        self.draft = draft
        self._problems = draft.problems() if draft is not None else {}
        self._worker_problems = {}
        self.styles.height = max(1, self.count())
        self.reload()

    def add_worker_problem(self, problem: str) -> None:
        """Show a problem found while estimating the cost beside its field."""
        key = field_of(problem)
        if key is not None:
            self._worker_problems = {key: problem.split(": ", 1)[1]}
            self.refresh()

    @property
    def current(self) -> Field | None:
        """The field under the cursor, if it is editable."""
        return FIELDS[self.cursor] if self.draft and self.cursor < len(FIELDS) else None

    @property
    def is_valid(self) -> bool:
        """Whether the config has no problem."""
        return self.draft is not None and not self._problems

    @property
    def problem(self) -> str | None:
        """The whole problem under the cursor; beside the field it may be cut."""
        if self.draft is None:
            return None
        if self.cursor < len(FIELDS):
            field = FIELDS[self.cursor]
            problem = self._problems.get(field.key)
            return f"{field.name}: {problem}" if problem else None
        key = self._other_keys()[self.cursor - len(FIELDS)]
        return f"{'.'.join(key)}: {self._problems[key]}"

    def count(self) -> int:
        """Number of lines."""
        return len(FIELDS) + len(self._other_keys()) if self.draft is not None else 0

    def line(self, index: int, width: int) -> Text:
        """A field, or a problem of another field."""
        if index >= len(FIELDS):
            key = self._other_keys()[index - len(FIELDS)]
            sentence = f"! {'.'.join(key)}: {self._problems[key]}"
            return Text(fit(one_line(sentence), width), _WARNING, no_wrap=True)
        field = FIELDS[index]
        problem = self._problems.get(field.key) or self._worker_problems.get(field.key)
        line = Text(no_wrap=True).append(pad(field.name, _NAME_WIDTH), "dim")
        column = self._value_width(width)
        line.append(pad(_shortened(self._value(field.key), column), column), "bold").append("  ")
        note = fit(one_line(f"! {problem}" if problem else field.words), width - line.cell_len)
        return line.append(note, _WARNING if problem else "dim")

    def _value(self, key: Key) -> str:
        return one_line(self.draft.text(key)) if self.draft and self.draft.text(key) else "–"

    def _value_width(self, width: int) -> int:
        """Cells of the value column: the longest value, if the descriptions leave room."""
        longest = max(cell_len(self._value(field.key)) for field in FIELDS)
        room = width - _NAME_WIDTH - 2 - max(len(field.words) for field in FIELDS)
        return max(_LEAST_VALUE, min(longest, room))

    def _other_keys(self) -> list[Key]:
        known = {field.key for field in FIELDS}
        return [key for key in self._problems if key not in known]


class NewRunScreen(MagicScreen):
    """The cost is estimated before a run can start, and again after every change."""

    NAME = "New run"
    ABOUT = (
        "The main fields of a config; enter edits a field. The cost is estimated by reading the "
        "data and timing a step. The config file itself is not changed."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "start", "start", tooltip="Start the run."),
        Binding("p", "estimate", "cost", tooltip="Estimate the cost again."),
        Binding("f", "file", "file", tooltip="Open another config file."),
        Binding("escape", "leave", "back", tooltip="Go back without starting a run."),
        Binding("down", "offer(1)", show=False),
        Binding("up", "offer(-1)", show=False),
    ]
    DEFAULT_CSS = """
    NewRunScreen FieldList, NewRunScreen OfferList { margin: 0 1; }
    NewRunScreen OfferList { height: auto; }
    NewRunScreen VerticalScroll {
        height: 1fr; padding: 0 1;
        border-top: solid $border-blurred; border-title-color: $text-muted;
    }
    NewRunScreen #cost { height: auto; }
    """

    def __init__(self, config: Path | None = None) -> None:
        """Open a config file; without one the screen prompts for it."""
        super().__init__()
        self._file = config
        self._draft: Draft | None = None
        self._problem: str | None = None
        """A problem that concerns no single field."""
        self._estimated: dict[str, object] | None = None
        """The config values that the cost was estimated for."""
        self._estimating = False
        self._cost: Facts | None = None
        self._starting = False

    def body(self) -> ComposeResult:
        """Offers or fields, cost, prompt."""
        yield OfferList()
        yield FieldList()
        with VerticalScroll(can_focus=False):
            yield Static(id="cost")
        yield Prompt()

    @property
    def fields(self) -> FieldList:
        """The list of fields."""
        return self.query_one(FieldList)

    def on_mount(self) -> None:
        """Read the file, or prompt for one and list some."""
        listed = self.query_one(OfferList)
        last = self.magic.last_config
        before = (Offer(last.stem, f"as last time: {last}", last),) if last is not None else ()
        listed.offers = (*before, *(o for o in offers() if o.path not in (None, last)))
        listed.styles.height = len(listed.offers)
        listed.reload()
        # Widget.focus is deferred: the next keys must go to the prompt.
        self.set_focus(listed)
        if self._file is None:
            self.action_file()
        else:
            self._read(self._file)

    def on_resize(self, event: events.Resize) -> None:
        """Wrap the cost again."""
        self._update_cost()

    def selection_changed(self, selection: Selection) -> None:
        """The screen does not depend on the selection."""

    def cli_equivalent(self) -> str:
        """``magic run`` with the unchanged file."""
        return f"magic run {self._file or 'CONFIG'}"

    def disabled_reason(self, action: str) -> str | None:
        """A run can start once its cost is known."""
        if action in ("start", "estimate", "choose") and self._draft is None:
            return "no config has been read; f opens a file"
        if action in ("start", "estimate") and not self.fields.is_valid:
            return "a field is invalid; its problem is beside it"
        if self._estimating and action in ("start", "estimate"):
            return "the cost is being estimated; press s once it is shown"
        if self._starting and action == "start":
            return "the run is being started"
        return None

    def on_virtual_list_chosen(self, event: VirtualList.Chosen) -> None:
        """Edit a field, or open an offer."""
        if self._draft is None:
            self._open_offer()
            return
        field, draft = self.fields.current, self._draft
        if field is not None:
            key = field.key

            def changed(text: str) -> None:
                draft.change(key, text.strip())
                self._edited()

            self.query_one(Prompt).open(field.name, draft.text(key), changed)

    def on_virtual_list_moved(self, event: VirtualList.Moved) -> None:
        """Show the whole problem of the field."""
        self._update_problem()

    def action_offer(self, lines: int) -> None:
        """Move between the offers while the prompt is open."""
        if self._draft is None:
            self.query_one(OfferList).action_move(lines)

    def action_page(self, pages: int) -> None:
        """Scroll the cost."""
        box = self.query_one(VerticalScroll)
        box.scroll_relative(y=pages * max(1, box.size.height - 1), animate=False)

    def action_file(self) -> None:
        """Prompt for a config file."""
        value = str(self._file) if self._file is not None else ""
        offered = self._draft is None and self.query_one(OfferList).count()
        label = "config file, or ⏎ for the one above" if offered else "config file"
        self.query_one(Prompt).open(label, value, self._file_entered)

    def action_leave(self) -> None:
        """Close the screen."""
        if self.is_active:
            self.app.pop_screen()

    def action_estimate(self) -> None:
        """Estimate the cost."""
        if self._draft is None:
            return
        try:
            config = self._draft.config()
        except MagicError as error:
            self._set_problem(str(error))
            return
        self._set_problem(None)
        self._estimating, self._cost = True, None
        self._update_cost()
        self._estimate(config, dict(self._draft.values))

    def action_start(self) -> None:
        """Start the run; estimate first if the cost is not on screen."""
        assert self._draft is not None
        if self._estimated != self._draft.values:
            self.action_estimate()
            self.magic.show_message("estimating the cost first; then press s again to start")
            return
        self._starting = True
        self.magic.show_message("starting …", seconds=60)
        self._start(self._draft.config())

    def _file_entered(self, text: str) -> None:
        if text.strip():
            self._read(Path(text.strip()).expanduser())
        elif self._draft is None:
            self._open_offer()

    def _open_offer(self) -> None:
        listed = self.query_one(OfferList)
        if listed.count():
            path = listed.offers[listed.cursor].path
            assert path is not None
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            self._draft = Draft(path)
        except MagicError as error:
            self._set_problem(f"{error} (f opens another file)")
            return
        self._file = self.magic.last_config = path
        self._estimated = None
        self.query_one(Header).note(path.name)
        self.query_one(OfferList).display = False
        self.set_focus(self.fields)
        self._edited()

    def _edited(self) -> None:
        """Show the values; estimate their cost unless it is known."""
        self.fields.update(self._draft)
        self._set_problem(None)
        unknown = self._draft is not None and self._estimated != self._draft.values
        if self.fields.is_valid and unknown:
            self.action_estimate()
        else:
            self._update_cost()

    def _set_problem(self, problem: str | None) -> None:
        self._problem = problem
        self._update_problem()

    def _update_problem(self) -> None:
        self.show_problem(self.fields.problem or self._problem)

    def _update_cost(self) -> None:
        if self not in self.app.screen_stack:
            # The screen was closed while the cost was estimated.
            return
        width = max(20, self.size.width - 4)
        lines = list(plan_lines(self._cost, width)) if self._cost is not None else []
        if self._estimating:
            lines = [Text("estimating the cost: reading the data and timing a step …", "dim")]
        elif not self.fields.is_valid:
            lines = []
        elif self._draft is not None and self._estimated != self._draft.values:
            lines = [Text("! the cost is unknown; p tries again", _WARNING)]
        if self._draft is not None:
            with contextlib.suppress(MagicError):
                code = code_of(self._draft.config())
                lines += [Text(f"! runs code: {one_line(line)}", _WARNING) for line in code]
        self.query_one("#cost", Static).update(Content.from_rich_text(Text("\n").join(lines)))
        self.refresh_bindings()
        self.call_after_refresh(self._update_cost_title)

    def _update_cost_title(self) -> None:
        if self not in self.app.screen_stack:
            return
        box = self.query_one(VerticalScroll)
        box.border_title = "cost – pgdn shows the rest" if box.max_scroll_y > 0 else "cost"

    @work(thread=True, exclusive=True, group="cost", exit_on_error=False)
    def _estimate(self, config: RunConfig, values: dict[str, object]) -> None:
        cost, problem, worker = None, None, get_current_worker()
        try:
            cost = cost_of(config, self.selection.runs_dir, lambda: worker.is_cancelled)
        except (MagicError, OSError) as error:
            problem = str(error)
        self.call_from_worker(self._show_cost, values, cost, problem)

    def _show_cost(
        self, values: dict[str, object], cost: Facts | None, problem: str | None
    ) -> None:
        self._estimating, self._cost = False, cost
        self._estimated = values if cost is not None else None
        if self not in self.app.screen_stack:
            return
        self._set_problem(problem)
        if problem is not None:
            self.fields.add_worker_problem(problem)
        self._update_cost()

    @work(thread=True, exclusive=True, group="start", exit_on_error=False)
    def _start(self, config: RunConfig) -> None:
        try:
            view = self.magic.start_engine().submit(new_run_id(), as_plain(config))
        except MagicError as error:
            self.app.call_from_thread(self._rejected, str(error))
            return
        self.app.call_from_thread(self._started, view["id"])

    def _rejected(self, sentence: str) -> None:
        self._starting = False
        self.app.clear_notifications()
        self._set_problem(sentence)

    def _started(self, run_id: str) -> None:
        self.app.clear_notifications()
        self.magic.select(run=run_id)
        self.magic.open_screen(2)


def _shortened(value: str, width: int) -> str:
    """The end of a long value, such as a path."""
    if cell_len(value) <= width:
        return value
    while cell_len(value) > width - 1:
        value = value[1:]
    return "…" + value
