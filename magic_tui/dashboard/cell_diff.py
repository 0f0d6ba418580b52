"""Write only the cells that changed, and each colour code once.

Textual writes every repainted region as a whole, with all colour codes of each segment. Over a slow
link this is most of the delay, and most of it repeats what is on screen already.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.color import ColorSystem
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from textual._compositor import ChopsUpdate, CompositorUpdate, LayoutUpdate
from textual.app import App
from textual.screen import Screen
from textual.strip import Strip

_GAP = 8
"""Fewer unchanged cells cost less to rewrite than to skip with a cursor movement."""
_EMOJI = re.compile("[\u231a-\u2bff\U0001f000-\U0001faff]")
"""Characters that older terminals draw in one cell and newer ones in two."""
_CLEAR = "\x1b[2J"
_SEEN_ON_BLANKS = frozenset(["4", "5", "6", "7", "9", "21", "51", "52", "53"])
"""Codes of lines, blinking and reversal: the only attributes visible on a blank."""


class Pen(NamedTuple):
    """The codes of a style; an empty code is the terminal's default."""

    attributes: str
    foreground: str
    background: str


Cell = tuple[str, Pen | None]
"""A character and its style; a pen of None marks text that is only written as a whole."""
_PLAIN = Pen("", "", "")


class TerminalCells:
    """The known content of the terminal."""

    def __init__(self) -> None:
        """No cell is known."""
        self._rows: dict[int, list[Cell | None]] = {}
        self._clear = False

    def forget(self, clear: bool = False) -> None:
        """Rewrite everything at the next update: another program may have written meanwhile.

        Args:
            clear: whether to erase the terminal first.
        """
        self._rows.clear()
        self._clear = self._clear or clear

    def update(self, update: LayoutUpdate | ChopsUpdate, console: Console) -> str:
        """The sequence that brings the terminal up to date."""
        writer = _Writer(_CLEAR if self._clear else "")
        self._clear = False
        system = console._color_system or ColorSystem.TRUECOLOR
        for y, pieces in _rows(update):
            row = self._rows.setdefault(y, [])
            for x, strip in pieces:
                self._put(writer, row, (x, y), _cells(strip, console, system))
        return writer.text()

    def _put(
        self, writer: "_Writer", row: list[Cell | None], place: tuple[int, int], new: list[Cell]
    ) -> None:
        x, y = place
        row.extend([None] * (x + len(new) - len(row)))
        old = row[x : x + len(new)]
        if old == new or not new:
            return
        row[x : x + len(new)] = new
        if new[0][1] is None:
            writer.write_whole(x, y, new[0][0], len(new))
            # A terminal that draws such characters wider has overwritten the cells after them.
            row[x + len(new) :] = [None] * (len(row) - x - len(new))
            return
        whole = any(cell is not None and cell[1] is None for cell in old)
        for start, stop in [(0, len(new))] if whole else _runs(old, new):
            writer.write(x + start, y, new[start:stop])


class CellDiffApp(App[None]):
    """An app that writes changed cells only."""

    def __init__(self, ansi_color: bool | None = None) -> None:
        """The terminal is unknown."""
        super().__init__(ansi_color=ansi_color)
        self._on_screen = TerminalCells()

    def on_mount(self) -> None:
        """Redraw everything after another program had the terminal."""
        self.app_resume_signal.subscribe(self, lambda _: self._on_screen.forget(), immediate=True)

    def action_redraw(self) -> None:
        """Erase the terminal and redraw everything."""
        self._on_screen.forget(clear=True)
        screen = self.screen
        whole = screen._compositor.render_update(full=True, screen_stack=self._background_screens)
        self._display(screen, whole)

    def on_resize(self) -> None:
        """Redraw everything: terminals differ in what they keep on a resize."""
        self._on_screen.forget()

    def _display(self, screen: Screen[Any], renderable: Any) -> None:
        if isinstance(renderable, LayoutUpdate | ChopsUpdate):
            renderable = CellDiffUpdate(renderable, self._on_screen)
        super()._display(screen, renderable)


class CellDiffUpdate(CompositorUpdate):
    """An update that writes changed cells only."""

    def __init__(self, update: LayoutUpdate | ChopsUpdate, terminal: TerminalCells) -> None:
        """Wrap an update of Textual."""
        self.whole, self._terminal = update, terminal

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Textual's own update."""
        yield self.whole

    def render_segments(self, console: Console) -> str:
        """The sequence to write."""
        return self._terminal.update(self.whole, console)


class _Writer:
    """Builds a sequence; tracks cursor position and colours."""

    def __init__(self, first: str) -> None:
        self._parts: list[str] = [first]
        self._pen = _PLAIN
        self._at: tuple[int, int] | None = None

    def write(self, x: int, y: int, cells: Sequence[Cell]) -> None:
        self._move(x, y)
        for character, pen in cells:
            assert pen is not None
            if pen != self._pen:
                self._change(pen, character == " " and not pen.attributes)
            self._parts.append(character)
        self._at = x + len(cells), y

    def write_whole(self, x: int, y: int, sequence: str, width: int) -> None:
        self._move(x, y)
        self._change(_PLAIN, False)
        # Erase first: a terminal that draws the text narrower would keep old cells.
        self._parts.append(f"\x1b[{width}X{sequence}")
        self._at = None

    def text(self) -> str:
        self._change(_PLAIN, False)
        return "".join(self._parts)

    def _move(self, x: int, y: int) -> None:
        if self._at != (x, y):
            self._parts.append(f"\x1b[{y + 1};{x + 1}H")

    def _change(self, pen: Pen, blank: bool) -> None:
        here = self._pen
        if blank and _SEEN_ON_BLANKS.isdisjoint(here.attributes.split(";")):
            # Only the background is visible; keep the foreground for the cells after the blank.
            pen = Pen(here.attributes, here.foreground, pen.background)
        if pen == here:
            return
        codes = []
        if pen.attributes != here.attributes:
            codes = ["0", *filter(None, pen)] if pen != _PLAIN else [""]
        else:
            if pen.foreground != here.foreground:
                codes.append(pen.foreground or "39")
            if pen.background != here.background:
                codes.append(pen.background or "49")
        self._parts.append(f"\x1b[{';'.join(codes)}m")
        self._pen = pen


def _rows(
    update: LayoutUpdate | ChopsUpdate,
) -> Iterator[tuple[int, list[tuple[int, Strip]]]]:
    """The rows of an update, each with its strips and their first cells."""
    if isinstance(update, LayoutUpdate):
        for y, strips in enumerate(update.strips, update.region.y):
            x, pieces = update.region.x, []
            for strip in strips:
                pieces.append((x, strip))
                x += strip.cell_length
            yield y, pieces
        return
    for y, first, stop in update.spans:
        painted = []
        for end, (x, piece) in zip(update.chop_ends[y], update.chops[y].items(), strict=False):
            if piece is not None and x < stop and end > first:
                painted.append((x, piece if end <= stop else piece.crop(0, stop - x)))
        yield y, painted


def _runs(old: Sequence[Cell | None], new: Sequence[Cell]) -> list[tuple[int, int]]:
    """Cell ranges in which two rows differ; ranges with small gaps are joined."""
    runs: list[tuple[int, int]] = []
    for place, (before, after) in enumerate(zip(old, new, strict=True)):
        if before == after:
            continue
        if runs and place - runs[-1][1] < _GAP:
            runs[-1] = runs[-1][0], place + 1
        else:
            runs.append((place, place + 1))
    return runs


def _cells(strip: Strip, console: Console, system: ColorSystem) -> list[Cell]:
    cells: list[Cell] = []
    linked = False
    for text, style, control in strip:
        if control:
            continue
        pen, blank = _pens(style, system)
        cells += [(character, blank if character == " " else pen) for character in text]
        linked = linked or (style is not None and style.link is not None)
    width = strip.cell_length
    if len(cells) != width or linked:
        # Terminals disagree about characters that are not one cell wide.
        rest: list[Cell] = [("", None)] * (width - 1)
        return [(_EMOJI.sub(_in_place, strip.render(console)), None), *rest][:width]
    return cells


def _in_place(emoji: re.Match[str]) -> str:
    """An emoji, then the cursor set after it, independent of the width the terminal assumes."""
    width = cell_len(emoji[0])
    return f"\x1b7{emoji[0]}\x1b8\x1b[{width}C" if width > 1 else emoji[0]


@functools.lru_cache(maxsize=4096)
def _pens(style: Style | None, system: ColorSystem) -> tuple[Pen, Pen]:
    """The codes of a style, and those of a blank in that style."""
    if style is None:
        return _PLAIN, _PLAIN
    foreground = style.color.downgrade(system).get_ansi_codes() if style.color else ()
    background = style.bgcolor.downgrade(system).get_ansi_codes(False) if style.bgcolor else ()
    pen = Pen(
        Strip.render_ansi(style.without_color, system), ";".join(foreground), ";".join(background)
    )
    seen = not _SEEN_ON_BLANKS.isdisjoint(pen.attributes.split(";"))
    return pen, pen if seen else Pen("", "", pen.background)
