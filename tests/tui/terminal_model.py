"""A model of a terminal: cursor movement, colours, text."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from rich.cells import cell_len
from rich.color import ColorSystem
from rich.console import Console
from textual.app import App
from textual.pilot import Pilot
from textual.strip import Strip

from magic_tui.dashboard.app import MagicApp
from tests.tui.driving import Terminal, drive

Look = tuple[frozenset[str], str, str]
"""Attributes, ink and paper."""
_TOKEN = re.compile(
    r"\x1b\[(?P<at>\d+;\d+)H|\x1b\[(?P<sgr>[\d;]*)m|\x1b\[(?P<erase>\d+)X|\x1b\[(?P<on>\d+)C"
    r"|\x1b(?P<cursor>[78])|(?P<clear>\x1b\[2J)|(?P<text>[^\x1b\n]+)|\n"
)
_PLAIN: Look = (frozenset(), "", "")


class TerminalModel:
    """A grid of characters that takes what is written.

    Args:
        size: columns and rows.
        width_of: cells that the terminal gives a character.
    """

    def __init__(self, size: tuple[int, int], width_of: Callable[[str], int] | None = None) -> None:
        self.clear(size)
        self._x = self._y = 0
        self._look = _PLAIN
        self._kept = (0, 0, _PLAIN)
        self._width_of = width_of or cell_len

    def row(self, y: int) -> str:
        return "".join(self.grid.get((x, y), (" ", _PLAIN))[0] for x in range(self.size[0]))

    def clear(self, size: tuple[int, int]) -> None:
        self.size = size
        self.grid: dict[tuple[int, int], tuple[str, Look]] = {}

    def write(self, written: str) -> None:
        end = 0
        for token in _TOKEN.finditer(written):
            assert token.start() == end, written[end : token.start()]
            end = token.end()
            if token["at"]:
                row, column = token["at"].split(";")
                self._x, self._y = int(column) - 1, int(row) - 1
            elif token["sgr"] is not None:
                self._look = _changed(self._look, token["sgr"])
            elif token["erase"]:
                for x in range(self._x, self._x + int(token["erase"])):
                    self.grid[x, self._y] = " ", _PLAIN
            elif token["on"]:
                self._x += int(token["on"])
            elif token["cursor"] == "7":
                self._kept = self._x, self._y, self._look
            elif token["cursor"] == "8":
                self._x, self._y, self._look = self._kept
            elif token["clear"]:
                self.clear(self.size)
            elif token["text"]:
                self._put(token["text"])
        assert end == len(written), written[end:]

    def _put(self, text: str) -> None:
        for character in text:
            assert self._x < self.size[0] and self._y < self.size[1], "outside of the screen"
            attributes, ink, paper = self._look  # words: ok
            if character == " " and not attributes & {"4", "7", "9"}:
                attributes, ink = frozenset(), ""
            width = self._width_of(character)
            if width == 0:
                continue
            self.grid[self._x, self._y] = character, (attributes, ink, paper)
            self._x += 1
            if width == 2:
                self.grid[self._x, self._y] = "", (frozenset(), "", "")
                self._x += 1


def watch_output(
    monkeypatch: pytest.MonkeyPatch, app: MagicApp, on_output: Callable[[str, str], None]
) -> None:
    """Pass output for a terminal of 256 colours, and Textual's own output, to ``on_output``."""
    original = App._display

    def display(self: App[Any], screen: Any, renderable: Any) -> None:
        if renderable is not None and not self._batch_count and self._running:
            whole = getattr(renderable, "whole", renderable).render_segments(self.console)
            on_output(renderable.render_segments(self.console), whole)
        original(self, screen, renderable)

    render = Strip.render

    def render_anew(self: Strip, console: Console) -> str:
        # Another test may have drawn this strip, or its styles, for a terminal of other colours.
        self._render_cache = None
        for segment in self:
            if segment.style is not None:
                segment.style._ansi = None
        return render(self, console)

    Strip.render_ansi.cache_clear()

    monkeypatch.setattr(Strip, "render", render_anew)
    monkeypatch.setattr(App, "_display", display)
    app.console._color_system = ColorSystem.EIGHT_BIT


def bytes_of(
    monkeypatch: pytest.MonkeyPatch,
    app: MagicApp,
    begin: Callable[[Pilot[None]], Awaitable[None]],
    keys: list[str],
) -> list[int]:
    """How many bytes each key brings to a terminal of 80×24, once ``begin`` is done."""
    sizes: list[int] = []

    def on_output(written: str, whole: str) -> None:
        if sizes:
            sizes[-1] += len(written.encode())

    watch_output(monkeypatch, app, on_output)

    async def task(pilot: Pilot[None]) -> None:
        await begin(pilot)
        await pilot.pause(0.1)
        for key in keys:
            sizes.append(0)
            await pilot.press(key)
            await pilot.pause(0.05)

    drive(app, task, Terminal())
    return sizes


def _changed(look: Look, codes: str) -> Look:
    attributes, ink, paper = look
    left = iter((codes or "0").split(";"))
    for code in left:
        if code == "0":
            attributes, ink, paper = _PLAIN
        elif code in ("38", "48"):
            kind = next(left)
            value = ";".join([code, kind, *(next(left) for _ in range(1 if kind == "5" else 3))])
            ink, paper = (value, paper) if code == "38" else (ink, value)
        elif code == "39" or 30 <= int(code) <= 37 or 90 <= int(code) <= 97:
            ink = "" if code == "39" else code
        elif code == "49" or 40 <= int(code) <= 47 or 100 <= int(code) <= 107:
            paper = "" if code == "49" else code
        else:
            attributes = attributes | {code}
    return attributes, ink, paper
