"""The last line of a screen: its keys, generated from the bindings."""

from rich.cells import cell_len
from textual.binding import Binding
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Input

_SHORT = {
    "enter": "⏎", "escape": "esc", "question_mark": "?", "slash": "/", "colon": ":",
    "left_square_bracket": "[", "right_square_bracket": "]", "plus": "+", "minus": "-",
    "space": "space", "up": "↑", "down": "↓", "left": "←", "right": "→", "ctrl+p": "^p",
    "less_than_sign": "<", "greater_than_sign": ">", "equals_sign": "=", "comma": ",",
    "full_stop": ".", "pageup": "pgup", "pagedown": "pgdn",
    "left_curly_bracket": "{", "right_curly_bracket": "}",
}  # fmt: skip
_ALWAYS = ("question_mark", "q")
"""Keys that are always shown, at the end of the line."""


def key_text(key: str) -> str:
    """A key as printed on a keyboard; the first of several keys separated by commas."""
    first = key.split(",")[0]
    return _SHORT.get(first, first)


class Footer(Widget):
    """As many keys as fit; keys of disabled actions are dim."""

    DEFAULT_CSS = """
    Footer { dock: bottom; height: 1; background: $panel; padding: 0 1; }
    """

    def on_mount(self) -> None:
        """Redraw when the bindings change."""
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self.refresh())

    def render(self) -> Content:
        """The active keys."""
        active_bindings = list(self.screen.active_bindings.values())
        if isinstance(self.screen.focused, Input):
            # Other keys are typed into the input.
            above = (self.screen, self.app)
            active_bindings = [active for active in active_bindings if active.node not in above]
        bindings = [active.binding for active in active_bindings]
        last = [self._part(b) for b in bindings if b.key in _ALWAYS]
        room = self.size.width - sum(cell_len(part.plain) + 2 for part in last)
        parts: list[Content] = []
        actions: set[str] = set()
        for binding in sorted(bindings, key=lambda b: b.key != "enter"):
            if not binding.show or binding.key in _ALWAYS or binding.system:
                continue
            if binding.action in actions:
                continue
            actions.add(binding.action)
            part = self._part(binding)
            room -= cell_len(part.plain) + 2
            if room < 0:
                break
            parts.append(part)
        return Content("  ").join([*parts, *last])

    def _part(self, binding: Binding) -> Content:
        disabled_reason = getattr(self.screen, "disabled_reason", None)
        name = binding.action.split("(")[0].split(".")[-1]
        style = "dim" if disabled_reason is not None and disabled_reason(name) else ""
        return Content.assemble(
            (binding.key_display or key_text(binding.key), f"bold {style or '$accent'}"),
            (f" {binding.description}", style),
        )
