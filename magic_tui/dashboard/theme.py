"""The themes. All colours are in the 256-colour table, so none shifts over SSH."""

from rich.terminal_theme import TerminalTheme
from textual.theme import Theme

BLUE, ORANGE = "#5fafff", "#ffaf5f"
"""Helpful and harmful; distinguishable with red-green colour blindness."""

DARK = Theme(
    name="magic-dark",
    dark=True,
    primary="#5fafff",
    secondary="#87afd7",
    accent="#87d7ff",
    warning="#ffaf5f",
    error="#ff875f",
    success="#87d7af",
    foreground="#d0d0d0",
    background="#121212",
    surface="#1c1c1c",
    panel="#303030",
    variables={
        "footer-background": "#303030",
        "block-cursor-background": "#005f87",
        "block-cursor-foreground": "#eeeeee",
        "border": "#5fafff",
        "border-blurred": "#444444",
    },
)
LIGHT = Theme(
    name="magic-light",
    dark=False,
    primary="#005faf",
    secondary="#005f87",
    accent="#005faf",
    warning="#875f00",
    error="#af5f00",
    success="#005f5f",
    foreground="#262626",
    background="#ffffff",
    surface="#eeeeee",
    panel="#dadada",
    variables={
        "footer-background": "#dadada",
        "block-cursor-background": "#afd7ff",
        "block-cursor-foreground": "#121212",
        "border": "#005faf",
        "border-blurred": "#b2b2b2",
    },
)


def _ansi(background: int, foreground: int, colours: tuple[int, ...]) -> TerminalTheme:
    """The eight named colours that lines shared with the command line use."""
    parts = [((c >> 16) & 255, (c >> 8) & 255, c & 255) for c in (background, foreground, *colours)]
    return TerminalTheme(parts[0], parts[1], parts[2:])


ANSI_DARK = _ansi(
    0x121212,
    0xD0D0D0,
    (0x121212, 0xFF875F, 0x87D7AF, 0xFFAF5F, 0x5FAFFF, 0xAF87D7, 0x87D7FF, 0xD0D0D0),
)
ANSI_LIGHT = _ansi(
    0xFFFFFF,
    0x262626,
    (0x262626, 0xAF5F00, 0x005F5F, 0x875F00, 0x005FAF, 0x5F5F87, 0x005F87, 0x262626),
)
