"""One text with the losses of its tokens, and a cursor that tells a token's exact loss."""

from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.strip import Strip
from textual.widget import Widget

from engine.runs.safe_text import one_line
from magic_tui.queries.candidates import TextLosses
from magic_tui.queries.loss_lines import (
    MARKS,
    NOT_PREDICTED,
    STYLES,
    Run,
    legend,
    loss_level,
    wrap_tokens,
)
from magic_tui.text.cells import fit
from magic_tui.text.numbers import loss_text
from magic_tui.widgets.lines import text_strip

_CURSOR = Style(reverse=True, bold=True, underline=True)
_LONGEST = 20_000
"""Characters of a text that are shown before its losses are known."""


class LossText(Widget, can_focus=True):
    """A text; once its losses are known its tokens are shaded and the cursor moves over them."""

    DEFAULT_CSS = """
    LossText { height: 8; padding: 0 1; border-top: solid $border-blurred; }
    LossText:focus { border-top: solid $border; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l,right", "token(1)", "token", show=False, tooltip="Next token."),
        Binding("h,left", "token(-1)", "token", show=False, tooltip="Token before."),
        Binding("j,down", "scroll(1)", show=False, tooltip="One line down."),
        Binding("k,up", "scroll(-1)", show=False, tooltip="One line up."),
        Binding("n", "hard(1)", "next hard token", tooltip="Next token of high loss."),
        Binding("N", "hard(-1)", show=False, tooltip="Token of high loss before."),
        Binding("escape", "leave", "back", tooltip="Back to the list."),
    ]

    def __init__(self) -> None:
        """Nothing yet."""
        super().__init__()
        self.losses: TextLosses | None = None
        self.cursor = 0
        self._texts: list[str] = []
        self._note = ""
        self._wrapped: tuple[int, list[list[Run]]] | None = None
        self._top = 0

    def show(self, text: str, losses: TextLosses | None, note: str = "") -> None:
        """Show a text; ``note`` says why there are no losses yet."""
        texts = [token.text for token in losses.tokens] if losses else [text[:_LONGEST]]
        same = (losses, texts, note) == (self.losses, self._texts, self._note)
        if not same:
            self.losses, self._texts, self._note = losses, texts, note
            self.cursor, self._top, self._wrapped = 0, 0, None
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """The head line, then the text, each of its lines with marks where there is no colour."""
        style, width = self.rich_style, self.size.width
        row = y - 1
        if row < 0:
            text = self._head()
        else:
            lines, each = self._lines(), 1 if self._colour else 2
            index, part = divmod(row, each)
            index += self._top
            if index >= len(lines):
                return Strip.blank(width, style)
            text = self._line(lines[index]) if part == 0 else Text(self._marks(lines[index]))
        return text_strip(text, self).adjust_cell_length(width, style)

    def on_resize(self, event: events.Resize) -> None:
        """Wrap anew."""
        self._wrapped = None
        self._show_cursor()

    def action_token(self, tokens: int) -> None:
        """Move the cursor."""
        if self.losses is not None:
            self.cursor = max(0, min(self.cursor + tokens, len(self._texts) - 1))
            self._show_cursor()

    def action_scroll(self, lines: int) -> None:
        """Move the window."""
        self._top = max(0, min(self._top + lines, len(self._lines()) - 1))
        self.refresh()

    def action_hard(self, direction: int) -> None:
        """Move the cursor to the next token of one of the two upper levels."""
        if self.losses is None:
            return
        hardest = self.losses.hardest
        hard = [i for i, t in enumerate(self.losses.tokens) if loss_level(t.loss, hardest) >= 2]
        after = [i for i in hard if direction * (i - self.cursor) > 0]
        if after:
            self.cursor = after[0] if direction > 0 else after[-1]
            self._show_cursor()

    def action_leave(self) -> None:
        """Give the focus back to what is before this."""
        self.screen.focus_previous()

    @property
    def _colour(self) -> bool:
        return not self.app.no_color

    def _lines(self) -> list[list[Run]]:
        width = max(1, self.size.width)
        if self._wrapped is None or self._wrapped[0] != width:
            self._wrapped = width, wrap_tokens(self._texts, width)
        return self._wrapped[1]

    def _show_cursor(self) -> None:
        lines = self._lines()
        # Tokens come in order; a line may be empty or hold the middle of one.
        firsts = [line[0][0] if line else -1 for line in lines]
        place = max((n for n, first in enumerate(firsts) if 0 <= first <= self.cursor), default=0)
        height = max(1, (self.size.height - 1) // (1 if self._colour else 2))
        if not self._top <= place < self._top + height:
            self._top = max(0, place - height // 2)
        self.refresh()

    def _head(self) -> Text:
        width = self.size.width
        if self.losses is None:
            return Text(fit(one_line(self._note), width), "dim")
        head = Text(f"mean loss {loss_text(self.losses.loss)}", "bold", no_wrap=True)
        if self.has_focus:
            token = self.losses.tokens[self.cursor]
            value = "is given" if token.loss is None else f"loss {loss_text(token.loss)}"
            shown = fit(one_line(repr(token.text)), 18)
            head.append(f"   {shown} {value}", "not bold")
        rest = Text("   ").append_text(legend(self.losses.hardest, self._colour))
        if head.cell_len + rest.cell_len <= width:
            head.append_text(rest)
        return head

    def _line(self, line: list[Run]) -> Text:
        text = Text(no_wrap=True, end="")
        for index, part in line:
            text.append(part, self._style(index))
        return text

    def _style(self, index: int) -> Style:
        if self.losses is None:
            return Style()
        loss = self.losses.tokens[index].loss
        style = STYLES[loss_level(loss, self.losses.hardest)] if loss is not None else NOT_PREDICTED
        if index == self.cursor and self.has_focus:
            style += _CURSOR if self._colour else Style(reverse=True)
        return style

    def _marks(self, line: list[Run]) -> str:
        if self.losses is None:
            return ""
        levels = (loss_level(self.losses.tokens[i].loss, self.losses.hardest) for i, _ in line)
        return "".join(
            MARKS[level] * len(part) for level, (_, part) in zip(levels, line, strict=True)
        )
