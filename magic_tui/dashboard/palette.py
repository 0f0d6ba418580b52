"""What the command palette offers: the screens, every action of the one shown, the colours."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from textual.app import SystemCommand
from textual.screen import Screen

from magic_tui.dashboard.footer import key_text
from magic_tui.dashboard.numbered import NAMES

if TYPE_CHECKING:
    from magic_tui.dashboard.app import MagicApp


def commands(app: "MagicApp", screen: Screen[Any]) -> Iterator[SystemCommand]:
    """The commands while ``screen`` is shown."""
    go = app.open_screen if app.shown is None else app.shown.go_to
    for number in range(1, len(NAMES)):
        yield SystemCommand(
            f"{number} {NAMES[number]}", f"Go to screen {number}", partial(go, number)
        )
    for active in screen.active_bindings.values():
        binding = active.binding
        if binding.tooltip and not binding.system and not binding.key.isdigit():
            do = partial(app.run_action, binding.action, active.node)
            yield SystemCommand(binding.tooltip.rstrip("."), f"Key: {key_text(binding.key)}", do)
    yield SystemCommand("Start a run from a config", "Shows its cost first", app.action_new)
    yield SystemCommand("Light or dark", "Change the colours", app.action_light)
