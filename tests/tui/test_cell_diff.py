"""Only changed cells are written, and the terminal shows the same as without the filter."""

import random
from collections.abc import Iterable

import pytest
from rich.cells import cell_len
from rich.color import ColorSystem
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual._compositor import LayoutUpdate
from textual.geometry import Region
from textual.pilot import Pilot
from textual.strip import Strip

from engine.runs.run_folder import RunFolder
from engine.runs.safe_text import safe_text
from magic_tui.dashboard.app import MagicApp
from magic_tui.dashboard.cell_diff import TerminalCells
from tests.tui.driving import Terminal, drive
from tests.tui.terminal_model import TerminalModel, watch_output

KEYS = (
    *"12345678", "j", "k", "l", "h", "pagedown", "pageup", "G", "g", "n", "N", "Q", "space", "c",
    "slash", "a", "escape", "enter", "question_mark", "tab", "plus", "minus", "0",
    "left_square_bracket", "right_square_bracket", "full_stop", "escape", "escape",
)  # fmt: skip
STYLES = (
    None, "red", "bold on blue", "underline", "reverse", "dim color(75) on color(236)",
    "color(75) on color(236)", "color(75)", "on color(236)", "italic underline on red",
)  # fmt: skip


@pytest.mark.parametrize(
    "size", [(80, 24), pytest.param((120, 40), marks=pytest.mark.slow)], ids=str
)
def test_the_terminal_shows_the_screen_after_any_keys(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    app, chance = MagicApp(finished.path.parent, finished.id, 1), random.Random(7)
    thin, whole = TerminalModel(size), TerminalModel(size)

    def on_output(written: str, by_textual: str) -> None:
        thin.write(written)
        whole.write(by_textual)
        assert thin.grid == whole.grid

    watch_output(monkeypatch, app, on_output)

    async def task(pilot: Pilot[None]) -> None:
        for key in (*"12345678", *chance.choices(KEYS, k=60)):
            await pilot.press(key)
            await pilot.pause(0.02)
        for model in (thin, whole):
            model.clear((60, 20))
        await pilot.resize_terminal(60, 20)
        await pilot.pause(0.2)
        assert len(thin.grid) == 60 * 20

    drive(app, task, Terminal(*size))


def test_random_rows_come_out_the_same() -> None:
    chance, console = random.Random(3), Console()
    console._color_system = ColorSystem.EIGHT_BIT
    styles = [None if style is None else Style.parse(style) for style in STYLES]
    cells, model = TerminalCells(), TerminalModel((30, 4))
    rows: list[Iterable[Strip]] = [[Strip([Segment(" " * 30)])] for _ in range(4)]
    for _ in range(400):
        rows[chance.randrange(4)] = [random_strip(chance, styles)]
        update = LayoutUpdate(list(rows), Region(0, 0, 30, 4))
        model.write(cells.update(update, console))
        expected = TerminalModel((30, 4))
        expected.write(update.render_segments(console))
        assert model.grid.keys() >= expected.grid.keys()
        assert all(model.grid[place] == cell for place, cell in expected.grid.items())


def random_strip(chance: random.Random, styles: list[Style | None]) -> Strip:
    segments, room = [], 30
    while room:
        length = min(room, chance.randint(1, 9))
        signs = "aab   –漢" if chance.random() < 0.3 else "aab   █"
        text = "".join(chance.choices(signs, k=length))
        segments.append(Segment(text, chance.choice(styles)))
        room -= length
    return Strip(segments).adjust_cell_length(30)


def test_the_same_again_writes_nothing_until_it_is_forgotten() -> None:
    console, cells = Console(), TerminalCells()
    strips: list[Iterable[Strip]] = [
        [Strip([Segment(f"{number} {text}")])] for number, text in enumerate("ab")
    ]
    update = LayoutUpdate(strips, Region(0, 0, 3, 2))
    first = cells.update(update, console)
    assert "0 a" in first and "1 b" in first
    assert cells.update(update, console) == ""
    cells.forget()
    assert cells.update(update, console) == first


EMOJI = "I \u2764\ufe0f 1\ufe0f\u20e3 \U0001f469\U0001f3fd\u200d\u2695\ufe0f \U0001fae0!"


@pytest.mark.parametrize("old", [False, True], ids=["as Rich", "an old terminal"])
def test_emoji_leave_no_ghosts_whatever_the_terminal_thinks_of_them(old: bool) -> None:
    def width_of(character: str) -> int:
        # One that knows no emoji.
        return 1 if old and character > "\U0001f000" else cell_len(character)

    console, cells = Console(), TerminalCells()
    model = TerminalModel((30, 1), width_of)
    for text in ("x" * 30, safe_text(EMOJI), "y" * 30, safe_text(EMOJI) * 2, ""):
        strip = Strip([Segment(text)]).adjust_cell_length(30)
        model.write(cells.update(LayoutUpdate([[strip]], Region(0, 0, 30, 1)), console))
        row = model.row(0)
        assert set(row) <= {*text, " "}, row
        # What stands behind an emoji stands where it should.
        place = strip.text.find("!")
        if place > 0:
            assert model.grid[cell_len(strip.text[:place]), 0][0] == "!"


def test_ctrl_l_draws_everything_anew(finished: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    app, model = MagicApp(finished.path.parent, finished.id, 1), TerminalModel((80, 24))
    written: list[str] = []

    def on_output(text: str, by_textual: str) -> None:
        written.append(text)
        model.write(text)

    watch_output(monkeypatch, app, on_output)

    async def task(pilot: Pilot[None]) -> None:
        for opened in ([], ["question_mark"]):
            await pilot.press(*opened)
            await pilot.pause(0.3)
            before = dict(model.grid)
            # As another program would leave it.
            model.grid = {place: ("#", look) for place, (_, look) in before.items()}
            await pilot.press("ctrl+l")
            await pilot.pause(0.2)
            assert model.grid == before and "\x1b[2J" in "".join(written[-4:])

    drive(app, task, Terminal(80, 24))
