"""What is written to the terminal: only the cells that changed, and no colour twice.

Textual writes every region that was painted as a whole, each piece of it with all of its colours.
Over a slow link that is most of the waiting, and most of it says what is on screen already.
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
"""Moving the cursor over fewer unchanged cells takes more than writing them again."""
_EMOJI = re.compile("[\u231a-\u2bff\U0001f000-\U0001faff]")
"""What an older terminal may take for one cell where a newer one takes it for two."""
_CLEAR = "\x1b[2J"
_SEEN_ON_BLANKS = frozenset(["4", "5", "6", "7", "9", "21", "51", "52", "53"])
"""Codes of lines, blinking and reversal: the others do not show on a blank."""


class Pen(NamedTuple):
    """The codes of a style; empty ones are the terminal's own."""

    attributes: str
    ink: str
    paper: str


Cell = tuple[str, Pen | None]
"""A character and its style; a pen of None belongs to what is only ever written as a whole."""
_PLAIN = Pen("", "", "")


class TerminalCells:
    """What the terminal shows, as far as it is known."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._rows: dict[int, list[Cell | None]] = {}
        self._clear = False

    def forget(self, clear: bool = False) -> None:
        """Write everything at the next chance: something else may have written meanwhile.

        Args:
            clear: erase what is there first.
        """
        self._rows.clear()
        self._clear = self._clear or clear

    def update(self, update: LayoutUpdate | ChopsUpdate, console: Console) -> str:
        """What has to be written to bring the terminal up to date."""
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
            # A terminal may think such characters wider, and have drawn over what follows.
            row[x + len(new) :] = [None] * (len(row) - x - len(new))
            return
        whole = any(cell is not None and cell[1] is None for cell in old)
        for start, stop in [(0, len(new))] if whole else _runs(old, new):
            writer.write(x + start, y, new[start:stop])


class CellDiffApp(App[None]):
    """An app that writes no more than it has to."""

    def __init__(self, ansi_color: bool | None = None) -> None:
        """Nothing is on screen yet."""
        super().__init__(ansi_color=ansi_color)
        self._on_screen = TerminalCells()

    def on_mount(self) -> None:
        """Draw everything when another program had the terminal."""
        self.app_resume_signal.subscribe(self, lambda _: self._on_screen.forget(), immediate=True)

    def action_redraw(self) -> None:
        """Erase the terminal and draw all of it anew, whatever it shows."""
        self._on_screen.forget(clear=True)
        screen = self.screen
        whole = screen._compositor.render_update(full=True, screen_stack=self._background_screens)
        self._display(screen, whole)

    def on_resize(self) -> None:
        """Draw everything: terminals do what they like with what was there."""
        self._on_screen.forget()

    def _display(self, screen: Screen[Any], renderable: Any) -> None:
        if isinstance(renderable, LayoutUpdate | ChopsUpdate):
            renderable = CellDiffUpdate(renderable, self._on_screen)
        super()._display(screen, renderable)


class CellDiffUpdate(CompositorUpdate):
    """An update that writes only what the terminal does not show yet."""

    def __init__(self, update: LayoutUpdate | ChopsUpdate, shown: TerminalCells) -> None:
        """Thin an update."""
        self.whole, self._shown = update, shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The update as it was."""
        yield self.whole

    def render_segments(self, console: Console) -> str:
        """What is written."""
        return self._shown.update(self.whole, console)


class _Writer:
    """Puts sequences together, remembering where the cursor is and which colours are on."""

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
        # Where the terminal thinks the text narrower, nothing of what was there may be left.
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
            # Only the paper shows: the ink will be wanted again behind the blank.
            pen = Pen(here.attributes, here.ink, pen.paper)
        if pen == here:
            return
        codes = []
        if pen.attributes != here.attributes:
            codes = ["0", *filter(None, pen)] if pen != _PLAIN else [""]
        else:
            if pen.ink != here.ink:
                codes.append(pen.ink or "39")
            if pen.paper != here.paper:
                codes.append(pen.paper or "49")
        self._parts.append(f"\x1b[{';'.join(codes)}m")
        self._pen = pen


def _rows(
    update: LayoutUpdate | ChopsUpdate,
) -> Iterator[tuple[int, list[tuple[int, Strip]]]]:
    """The rows of an update, each with what is painted from which cell on."""
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
    """Where two rows differ, small gaps included."""
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
        # Characters of other widths: terminals disagree about them.
        rest: list[Cell] = [("", None)] * (width - 1)
        return [(_EMOJI.sub(_in_place, strip.render(console)), None), *rest][:width]
    return cells


def _in_place(emoji: re.Match[str]) -> str:
    """An emoji, and the cursor where it belongs behind it, however wide the terminal thinks it."""
    width = cell_len(emoji[0])
    return f"\x1b7{emoji[0]}\x1b8\x1b[{width}C" if width > 1 else emoji[0]


@functools.lru_cache(maxsize=4096)
def _pens(style: Style | None, system: ColorSystem) -> tuple[Pen, Pen]:
    """The codes of a style, and of a blank in it."""
    if style is None:
        return _PLAIN, _PLAIN
    inks = style.color.downgrade(system).get_ansi_codes() if style.color else ()
    papers = style.bgcolor.downgrade(system).get_ansi_codes(False) if style.bgcolor else ()
    pen = Pen(Strip.render_ansi(style.without_color, system), ";".join(inks), ";".join(papers))
    seen = not _SEEN_ON_BLANKS.isdisjoint(pen.attributes.split(";"))
    return pen, pen if seen else Pen("", "", pen.paper)
