"""The fields of a config, each with what is wrong with it beside it."""

from typing import ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual.binding import Binding, BindingType

from engine.runs.safe_text import one_line
from magic_tui.runs.config_draft import FIELDS, Draft, Field, Key, field_of
from magic_tui.text.cells import fit, pad
from magic_tui.widgets.virtual_list import VirtualList

_NAME_WIDTH, _LEAST_VALUE = 15, 14


class FieldList(VirtualList):
    """The main fields first; below them whatever else is wrong."""

    DEFAULT_CSS = """
    FieldList { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("pagedown,ctrl+f,ctrl+d", "screen.page(1)", show=False, tooltip="The cost, on."),
        Binding("pageup,ctrl+u", "screen.page(-1)", show=False, tooltip="The cost, back."),
    ]

    draft: Draft | None = None
    _problems: dict[Key, str] = {}  # noqa: RUF012 - replaced, never changed
    _told: dict[Key, str] = {}  # noqa: RUF012 - replaced, never changed

    def show(self, draft: Draft | None) -> None:
        """Show a draft."""
        self.draft = draft
        self._problems = draft.problems() if draft is not None else {}
        self._told = {}
        self.styles.height = max(1, self.count())
        self.reload()

    def tell(self, problem: str) -> None:
        """Put beside its field what was found out only when the cost was counted."""
        key = field_of(problem)
        if key is not None:
            self._told = {key: problem.split(": ", 1)[1]}
            self.refresh()

    @property
    def current(self) -> Field | None:
        """The field under the cursor, if it can be edited."""
        return FIELDS[self.cursor] if self.draft and self.cursor < len(FIELDS) else None

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return self.draft is not None and not self._problems

    @property
    def error(self) -> str | None:
        """What is wrong under the cursor, in full: beside the field there may be no room for it."""
        if self.draft is None:
            return None
        if self.cursor < len(FIELDS):
            field = FIELDS[self.cursor]
            problem = self._problems.get(field.key)
            return f"{field.name}: {problem}" if problem else None
        key = self._others()[self.cursor - len(FIELDS)]
        return f"{'.'.join(key)}: {self._problems[key]}"

    def count(self) -> int:
        """How many lines."""
        return len(FIELDS) + len(self._others()) if self.draft is not None else 0

    def line(self, index: int, width: int) -> Text:
        """A field, or something else that is wrong."""
        assert self.draft is not None
        if index >= len(FIELDS):
            key = self._others()[index - len(FIELDS)]
            sentence = f"! {'.'.join(key)}: {self._problems[key]}"
            return Text(fit(one_line(sentence), width), "color(215)", no_wrap=True)
        field = FIELDS[index]
        problem = self._problems.get(field.key) or self._told.get(field.key)
        line = Text(no_wrap=True).append(pad(field.name, _NAME_WIDTH), "dim")
        column = self._value_width(width)
        line.append(pad(_shortened(self._value(field.key), column), column), "bold").append("  ")
        note = f"! {problem}" if problem else field.words
        return line.append(fit(one_line(note), max(0, width - line.cell_len)),
                           "color(215)" if problem else "dim")  # fmt: skip

    def _value(self, key: Key) -> str:
        return one_line(self.draft.text(key)) if self.draft and self.draft.text(key) else "–"

    def _value_width(self, width: int) -> int:
        """Cells for the values: as many as the longest takes, and the words leave."""
        longest = max(cell_len(self._value(field.key)) for field in FIELDS)
        room = width - _NAME_WIDTH - 2 - max(len(field.words) for field in FIELDS)
        return max(_LEAST_VALUE, min(longest, room))

    def _others(self) -> list[Key]:
        known = {field.key for field in FIELDS}
        return [key for key in self._problems if key not in known]


def _shortened(value: str, width: int) -> str:
    """Of a long path the end, which tells most."""
    if cell_len(value) <= width:
        return value
    while cell_len(value) > width - 1:
        value = value[1:]
    return "…" + value
