"""Starting a run: a config, its main fields, what it would cost, and then the run."""

from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from engine.runs.config import RunConfig, as_plain
from engine.runs.errors import MagicError
from engine.runs.run_folder import new_run_id
from magic_tui.runs.config_draft import Draft
from magic_tui.runs.cost_preview import CountingScreen
from magic_tui.runs.field_list import FieldList
from magic_tui.runs.welcome_screen import Offer, OfferList, offers
from magic_tui.widgets.header import Header
from magic_tui.widgets.prompt import Prompt
from magic_tui.widgets.selection import Selection
from magic_tui.widgets.virtual_list import VirtualList


class NewRunScreen(CountingScreen):
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
        """Begin with a config file, or ask for one."""
        super().__init__()
        self._file = config
        self._starting = False

    def body(self) -> ComposeResult:
        """Fields above, or what can be begun with; cost below."""
        yield OfferList()
        yield FieldList()
        with VerticalScroll(can_focus=False):
            yield Static(id="cost")
        yield Prompt()

    def on_mount(self) -> None:
        """Read the file, or ask for one and offer some."""
        offered = self.query_one(OfferList)
        last = self.magic.last_config
        before = (Offer(last.stem, f"as last time: {last}", last),) if last is not None else ()
        offered.offers = (*before, *(o for o in offers() if o.path not in (None, last)))
        offered.styles.height = len(offered.offers)
        offered.reload()
        # At once, as Widget.focus is not: what is typed next belongs to the prompt.
        self.set_focus(offered)
        if self._file is None:
            self.action_file()
        else:
            self._read(self._file)

    def selection_changed(self, selection: Selection) -> None:
        """Nothing of the selection is shown."""

    def cli_equivalent(self) -> str:
        """Run the config as it is in its file."""
        return f"magic run {self._file or 'CONFIG'}"

    def disabled_reason(self, action: str) -> str | None:
        """A run starts once its cost is known."""
        if action in ("start", "count_cost", "choose") and self._draft is None:
            return "no config was read yet: f names its file"
        if action in ("start", "count_cost") and not self.query_one(FieldList).is_good:
            return "something is wrong with a field: see beside it"
        if self._counting and action in ("start", "count_cost"):
            return "the cost is being counted: s starts the run once it is shown"
        if self._starting and action == "start":
            return "the run is being started"
        return None

    def on_virtual_list_chosen(self, event: VirtualList.Chosen) -> None:
        """Edit a field, or take an offer."""
        if self._draft is None:
            self._take_offer()
            return
        fields = self.query_one(FieldList)
        field, draft = fields.current, self._draft
        if field is not None and draft is not None:
            key = field.key

            def changed(text: str) -> None:
                draft.change(key, text.strip())
                self._edited()

            self.query_one(Prompt).open(field.name, draft.text(key), changed)

    def on_virtual_list_moved(self, event: VirtualList.Moved) -> None:
        """Say in full what is wrong with this field."""
        self._tell_problem()

    def action_offer(self, lines: int) -> None:
        """Choose among what is offered while the prompt is open."""
        if self._draft is None:
            self.query_one(OfferList).action_move(lines)

    def action_file(self) -> None:
        """Ask for a config file."""
        shown = str(self._file) if self._file is not None else ""
        offered = self._draft is None and self.query_one(OfferList).count()
        name = "config file, or ⏎ takes the one above" if offered else "config file"
        self.query_one(Prompt).open(name, shown, self._named)

    def action_leave(self) -> None:
        """Leave."""
        if self.is_active:
            self.app.pop_screen()

    def action_start(self) -> None:
        """Start the run; count first what nobody has seen yet."""
        assert self._draft is not None
        if self._counted != self._draft.values:
            self.action_count_cost()
            self.magic.show_message(
                "counting first what it takes: s starts the run once that is shown"
            )
            return
        self._starting = True
        self.magic.show_message("starting …", seconds=60)
        self._start(self._draft.config())

    def _named(self, text: str) -> None:
        if text.strip():
            self._read(Path(text.strip()).expanduser())
        elif self._draft is None:
            self._take_offer()

    def _take_offer(self) -> None:
        offered = self.query_one(OfferList)
        if offered.count():
            path = offered.offers[offered.cursor].path
            assert path is not None
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            self._draft = Draft(path)
        except MagicError as error:
            self._tell_problem(f"{error} (f names another file)")
            return
        self._file = self.magic.last_config = path
        self._counted = None
        self.query_one(Header).note(path.name)
        self.query_one(OfferList).display = False
        self.set_focus(self.query_one(FieldList))
        self._edited()

    def _edited(self) -> None:
        """Show the values, and count what they would take unless that is known."""
        fields = self.query_one(FieldList)
        fields.show(self._draft)
        self._tell_problem(None)
        if fields.is_good and self._draft is not None and self._counted != self._draft.values:
            self.action_count_cost()
        else:
            self._show_cost()

    @work(thread=True, exclusive=True, group="start", exit_on_error=False)
    def _start(self, config: RunConfig) -> None:
        try:
            view = self.magic.start_engine().submit(new_run_id(), as_plain(config))
        except MagicError as error:
            self.app.call_from_thread(self._refused, str(error))
            return
        self.app.call_from_thread(self._started, view["id"])

    def _refused(self, sentence: str) -> None:
        self._starting = False
        self.app.clear_notifications()
        self._tell_problem(sentence)

    def _started(self, run_id: str) -> None:
        self.app.clear_notifications()
        self.magic.select(run=run_id)
        self.magic.open_screen(2)
