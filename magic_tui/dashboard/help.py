"""The help dialog: what a screen shows, and its keys generated from the bindings."""

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import ActiveBinding, Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from magic_tui.text.cells import pad, wrap
from magic_tui.widgets.footer import key_text
from magic_tui.widgets.screen import MagicScreen

_KEY_WIDTH = 18
_OF_EVERY_SCREEN = ("cli",)
_Described = tuple[str, str, str | None]
"""Keys, their description, and the reason if they are disabled."""


class HelpScreen(ModalScreen[None]):
    """The keys of a screen."""

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

    def __init__(self, subject: MagicScreen) -> None:
        """Help on a screen."""
        super().__init__()
        self._subject = subject

    def compose(self) -> ComposeResult:
        """One text that scrolls."""
        with VerticalScroll() as box:
            box.border_title = f"{self._subject.NAME} – esc closes"
            yield Static(self._text())

    def action_close(self) -> None:
        """Close the dialog."""
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
        for line in wrap(self._subject.ABOUT, width, 8):
            yield Text(line)
        for heading, described in self._sections():
            yield Text()
            yield Text(heading, "dim")
            for keys, words, reason in described:
                yield from _key_lines(keys, words, reason, width)

    def _sections(self) -> Iterator[tuple[str, list[_Described]]]:
        """The actions of this screen, its navigation, and the keys of every screen."""
        screen = self._subject
        actions: list[ActiveBinding] = []
        navigation: list[ActiveBinding] = []
        everywhere: list[ActiveBinding] = []
        for key, active in screen.active_bindings.items():
            binding = active.binding
            if not binding.tooltip or binding.system or key == "ctrl+q":
                continue
            if active.node is screen.app or binding.action in _OF_EVERY_SCREEN:
                everywhere.append(active)
            elif active.node is screen or binding.show:
                actions.append(active)
            else:
                navigation.append(active)
        # Enter comes first, as in the footer.
        actions.sort(key=lambda active: active.binding.key != "enter")
        sections = (("here", actions), ("moving", navigation), ("everywhere", everywhere))
        for heading, bindings in sections:
            if bindings:
                yield heading, self._described(bindings)

    def _described(self, active_bindings: Iterable[ActiveBinding]) -> list[_Described]:
        """Each action once, with all of its keys."""
        keys_of: dict[tuple[str, str], list[str]] = {}
        for active in active_bindings:
            binding = active.binding
            keys = keys_of.setdefault((binding.action, binding.tooltip), [])
            keys.append(key_text(binding.key))
        return [
            (" ".join(keys), words, self._subject.disabled_reason(_name(action)))
            for (action, words), keys in keys_of.items()
        ]


def _name(action: str) -> str:
    """``copy`` for ``screen.copy(1)``."""
    return action.split("(")[0].split(".")[-1]


def _key_lines(keys: str, words: str, reason: str | None, width: int) -> Iterator[Text]:
    lines = wrap(words, width - _KEY_WIDTH, 3)
    if reason is not None:
        lines += wrap(f"not now: {reason}", width - _KEY_WIDTH, 3)
    # One cell stays free between keys and words.
    labels = wrap(keys, _KEY_WIDTH - 1, 3)
    for label, line in zip_longest(labels, lines, fillvalue=""):
        style = "" if reason is None else "dim"
        yield Text().append(pad(label, _KEY_WIDTH), style or "bold").append(line, style)
