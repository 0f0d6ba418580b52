"""``?``: what a screen shows and its keys, made from the bindings themselves."""

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import ActiveBinding, Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from magic_tui.dashboard.footer import key_text
from magic_tui.text.cells import pad, wrap

_KEY_WIDTH = 18
_OF_EVERY_SCREEN = ("cli",)
_Described = tuple[str, str, str | None]
"""Keys, what they do, and why they would do nothing now."""


class HelpScreen(ModalScreen[None]):
    """The keys of the screen beneath."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,enter", "close", "close", priority=True),
        Binding("j", "scroll(1)", show=False),
        Binding("k", "scroll(-1)", show=False),
        Binding("g,home", "ends(0)", show=False),
        Binding("G,end", "ends(1)", show=False),
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

    def action_ends(self, last: int) -> None:
        """Scroll to the first or the last line."""
        box = self.query_one(VerticalScroll)
        box.scroll_to(y=box.max_scroll_y if last else 0, animate=False)

    def _text(self) -> Content:
        width = min(78, self.app.size.width - 6)
        return Content.from_rich_text(Text("\n").join(self._lines(width)))

    def _lines(self, width: int) -> Iterator[Text]:
        for line in wrap(getattr(self._about, "ABOUT", ""), width, 8):
            yield Text(line)
        for heading, part in self._parts():
            yield Text()
            yield Text(heading, "dim")
            for keys, words, reason in part:
                yield from _key_lines(keys, words, reason, width)

    def _parts(self) -> Iterator[tuple[str, list[_Described]]]:
        """The keys of what is done here, then those that move about, then those of every screen."""
        app, screen = self._about.app, self._about
        here: list[ActiveBinding] = []
        moving: list[ActiveBinding] = []
        always: list[ActiveBinding] = []
        for key, active in screen.active_bindings.items():
            binding = active.binding
            if not binding.tooltip or binding.system or key == "ctrl+q":
                continue
            if active.node is app or binding.action in _OF_EVERY_SCREEN:
                always.append(active)
            elif active.node is screen or binding.show:
                here.append(active)
            else:
                moving.append(active)
        # As at the foot: the way on comes first.
        here.sort(key=lambda active: active.binding.key != "enter")
        for heading, part in (("here", here), ("moving", moving), ("everywhere", always)):
            if part:
                yield heading, self._described(part)

    def _described(self, active_bindings: Iterable[ActiveBinding]) -> list[_Described]:
        """Keys, what they do, and why they would do nothing now; each action once."""
        found: dict[tuple[str, str], list[str]] = {}
        for active in active_bindings:
            binding = active.binding
            keys = found.setdefault((binding.action, binding.tooltip), [])
            keys.append(key_text(binding.key))
        why_not = getattr(self._about, "why_not", lambda action: None)
        return [
            (" ".join(keys), words, why_not(action.split("(")[0].split(".")[-1]))
            for (action, words), keys in found.items()
        ]


def _key_lines(keys: str, words: str, reason: str | None, width: int) -> Iterator[Text]:
    lines = wrap(words, width - _KEY_WIDTH, 3)
    if reason is not None:
        lines += wrap(f"not now: {reason}", width - _KEY_WIDTH, 3)
    # A cell stays free between the keys and the words.
    labels = wrap(keys, _KEY_WIDTH - 1, 3)
    for label, line in zip_longest(labels, lines, fillvalue=""):
        style = "" if reason is None else "dim"
        yield Text().append(pad(label, _KEY_WIDTH), style or "bold").append(line, style)
