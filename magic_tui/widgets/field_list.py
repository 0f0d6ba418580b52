"""The fields of a config, each with what is wrong with it beside it."""

from rich.text import Text

from magic_tui.client.plan import FIELDS, Draft, Field, Key
from magic_tui.render.cells import fit, pad
from magic_tui.safe_text import one_line
from magic_tui.widgets.line_list import LineList

_NAME_WIDTH, _LEAST_VALUE = 15, 14


class FieldList(LineList):
    """The main fields first; below them whatever else is wrong."""

    DEFAULT_CSS = """
    FieldList { height: auto; }
    """

    draft: Draft | None = None
    _problems: dict[Key, str] = {}  # noqa: RUF012 - replaced, never changed

    def show(self, draft: Draft | None) -> None:
        """Show a draft."""
        self.draft = draft
        self._problems = draft.problems() if draft is not None else {}
        self.styles.height = max(1, self.count())
        self.changed()

    @property
    def current(self) -> Field | None:
        """The field under the cursor, if it can be edited."""
        return FIELDS[self.cursor] if self.draft and self.cursor < len(FIELDS) else None

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return self.draft is not None and not self._problems

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
        problem = self._problem(field.key)
        line = Text(no_wrap=True).append(pad(field.name, _NAME_WIDTH), "dim")
        value = one_line(self.draft.text(field.key)) or "–"
        note = f"! {problem}" if problem else field.words
        room = width - _NAME_WIDTH
        value = _shortened(value, max(_LEAST_VALUE, room - len(note) - 2))
        line.append(pad(value, max(_LEAST_VALUE, len(value))), "bold").append("  ")
        return line.append(fit(one_line(note), max(0, width - line.cell_len)),
                           "color(215)" if problem else "dim")  # fmt: skip

    def _problem(self, key: Key) -> str | None:
        """What is wrong with a field, or with the block it is the first field of."""
        return self._problems.get(key)

    def _others(self) -> list[Key]:
        known = {field.key for field in FIELDS}
        return [key for key in self._problems if key not in known]


def _shortened(value: str, width: int) -> str:
    """Of a long path the end, which tells most."""
    return value if len(value) <= width else "…" + value[-(width - 1) :]
