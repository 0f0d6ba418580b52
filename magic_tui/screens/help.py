"""``?``: what a screen shows and its keys, made from the bindings themselves."""

from collections.abc import Iterator
from itertools import zip_longest
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from magic_tui.render.cells import pad, wrap
from magic_tui.widgets.foot import key_text

_KEY_WIDTH = 18


class HelpScreen(ModalScreen[None]):
    """The keys of the screen beneath."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,enter", "close", "close", priority=True),
        Binding("j", "scroll(1)", show=False),
        Binding("k", "scroll(-1)", show=False),
    ]
    DEFAULT_CSS = """
    HelpScreen { align: center middle; }
    HelpScreen VerticalScroll {
        width: 84; max-width: 100%; height: auto; max-height: 100%;
        border: round $primary; border-title-color: $primary; padding: 0 1; background: $surface;
    }
    """

    def __init__(self, about: Screen[None]) -> None:
        """Help on a screen."""
        super().__init__()
        self._about = about

    def compose(self) -> ComposeResult:
        """One text, scrolled if it is long."""
        with VerticalScroll() as box:
            box.border_title = f"{getattr(self._about, 'NAME', '')} – esc closes"
            yield Static(self._text())

    def action_close(self) -> None:
        """Close."""
        self.dismiss()

    def action_scroll(self, lines: int) -> None:
        """Scroll by lines."""
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)

    def _text(self) -> Content:
        width = min(78, self.app.size.width - 6)
        return Content.from_rich_text(Text("\n").join(self._lines(width)))

    def _lines(self, width: int) -> Iterator[Text]:
        for line in wrap(getattr(self._about, "ABOUT", ""), width, 8):
            yield Text(line)
        yield Text()
        for keys, words, reason in self._keys():
            lines = wrap(words, width - _KEY_WIDTH, 3)
            if reason is not None:
                lines += wrap(f"not now: {reason}", width - _KEY_WIDTH, 3)
            # A cell stays free between the keys and the words.
            labels = wrap(keys, _KEY_WIDTH - 1, 3)
            for label, line in zip_longest(labels, lines, fillvalue=""):
                style = "" if reason is None else "dim"
                yield Text().append(pad(label, _KEY_WIDTH), style or "bold").append(line, style)

    def _keys(self) -> Iterator[tuple[str, str, str | None]]:
        """Keys, what they do, and why they would do nothing now; each action once."""
        found: dict[tuple[str, str], list[str]] = {}
        actions: dict[tuple[str, str], str] = {}
        app, screen = self._about.app, self._about
        # The screen's own keys tell most, those of every screen least.
        active_bindings = sorted(
            screen.active_bindings.items(),
            key=lambda item: (item[1].node is app, item[1].node is not screen),
        )
        for key, active in active_bindings:
            binding = active.binding
            words = binding.tooltip
            if words and not binding.system and key != "ctrl+q":
                found.setdefault((binding.action, words), []).append(key_text(key))
                actions[binding.action, words] = binding.action.split("(")[0].split(".")[-1]
        why_not = getattr(self._about, "why_not", lambda action: None)
        for (action, words), keys in found.items():
            yield " ".join(keys), words, why_not(actions[action, words])
