"""What holds on every screen: help, palette, copying, disabled keys, plain terminals."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from engine.runs.run_folder import RunFolder
from magic_tui.cli import dashboard
from magic_tui.dashboard import external
from magic_tui.dashboard.app import NAMES, SCREENS, MagicApp
from magic_tui.dashboard.line_filters import supports_unicode
from magic_tui.widgets.footer import key_text
from magic_tui.widgets.screen import MagicScreen
from tests.fake_engine import FakeEngine
from tests.tui.driving import Terminal, drive, screen_lines, screen_text, shows, until


def test_the_welcome_explains_itself_and_offers_something(
    tmp_path: Path, terminal: Terminal
) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "Which training documents")
        text = screen_text(pilot.app)
        for offer in ("demo", "finetune-jsonl", "packed-pretrain", "own config"):
            assert offer in text
        assert "nothing is downloaded" in text
        # A long path is wrapped wherever its line ends.
        assert str(tmp_path / "none") in "".join(text.split())
        assert all(len(line) <= terminal.width for line in screen_lines(pilot.app))
        assert pilot.app.screen.cli_equivalent() == "magic demo"  # type: ignore[attr-defined]

    drive(MagicApp(tmp_path / "none", start=0), task, terminal)


def test_every_screen_has_help_from_its_bindings(finished: RunFolder) -> None:
    app = MagicApp(finished.path.parent, finished.id, 0)

    async def task(pilot: Pilot[None]) -> None:
        for number in sorted(SCREENS):
            app.open_screen(number)
            await until(pilot, lambda n=number: getattr(app.screen, "NUMBER", None) == n, "screen")
            await until(pilot, lambda: app.screen.query("Footer"), "its widgets")
            screen = app.screen
            assert isinstance(screen, MagicScreen)
            assert screen.ABOUT and screen.cli_equivalent().startswith("magic ")
            keys = {b.key for b in screen._bindings.key_to_bindings.get("c", [])}
            assert keys == {"c"}
            bindings = [active.binding for active in screen.active_bindings.values()]
            assert not [b.key for b in bindings if b.tooltip and "_" in key_text(b.key)]
            await pilot.press("question_mark")
            await shows(pilot, "esc closes")
            await pilot.press("escape")
            await until(pilot, lambda screen=screen: app.screen is screen)

    drive(app, task)


def test_help_keeps_keys_and_words_apart(finished: RunFolder, terminal: Terminal) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await pilot.press("question_mark")
        await shows(pilot, "pgdn ctrl+f")
        (line,) = (each for each in screen_lines(pilot.app) if "One page down" in each)
        assert " One page down" in line

    drive(MagicApp(finished.path.parent, start=0), task, terminal)


def test_help_begins_with_what_is_done_here(finished: RunFolder) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "who sat on the mat?")
        await pilot.press("question_mark")
        await shows(pilot, "esc closes")
        keys = [line.strip("│ ").split("  ")[0] for line in screen_lines(pilot.app)]
        wanted = ["here", "⏎ → l", "space", "a", "moving", "↑ k", "everywhere", "c", "1", "q"]
        assert [key for key in keys if key in wanted] == wanted
        # A disabled key shows its reason.
        lines = [line.strip("│ ") for line in screen_lines(pilot.app)]
        after = lines[next(n for n, line in enumerate(lines) if line.startswith("a ")) + 1]
        assert after == "not now: the basket is empty; add texts with space"

    drive(MagicApp(finished.path.parent, finished.id, 3), task, Terminal(100, 60))


def test_the_palette_names_keys_as_they_are_printed(finished: RunFolder) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "who sat on the mat?")
        await pilot.press("ctrl+p", *"attribute the basket")
        await shows(pilot, "Key: a")
        await pilot.press("enter")
        await shows(pilot, "the basket is empty")
        names = [command.help for command in pilot.app.get_system_commands(pilot.app.screen)]
        assert "Key: ?" in names and not [name for name in names if "_" in name]

    drive(MagicApp(finished.path.parent, finished.id, 3), task)


def test_digits_open_screens_and_escape_goes_back(finished: RunFolder) -> None:
    def at(pilot: Pilot[None]) -> Any:
        return getattr(pilot.app.screen, "NUMBER", None)

    async def task(pilot: Pilot[None]) -> None:
        for number in range(1, len(NAMES)):
            await pilot.press(str(number))
            await until(pilot, lambda number=number: at(pilot) == number, f"screen {number}")
        await pilot.press("escape")
        await until(pilot, lambda: at(pilot) == 7)
        await pilot.press("escape")
        await until(pilot, lambda: at(pilot) == 6)

    drive(MagicApp(finished.path.parent, finished.id, 1), task)


def test_ctrl_c_ends_nothing_and_q_leaves(finished: RunFolder) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+c")
        await shows(pilot, "q quits, runs continue")
        await pilot.press("q")
        await until(pilot, lambda: not pilot.app.is_running)

    drive(MagicApp(finished.path.parent, finished.id, 2), task)


def test_a_disabled_key_shows_its_reason(finished: RunFolder, engine: FakeEngine) -> None:
    engine.add(finished.id, "succeeded", path=str(finished.path))

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "succeeded")
        await pilot.press("p")
        await shows(pilot, "there is nothing to pause")
        assert engine.of_kind("POST", "/pause") == []

    drive(MagicApp(finished.path.parent, finished.id, 2), task)


def test_copying_names_the_destinations(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "tmux").write_text(f"#!/bin/sh\ncat > {tmp_path}/buffer\n")
    (tools / "tmux").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TMUX", "/tmp/tmux,1,0")
    app = MagicApp(finished.path.parent, finished.id, 2)

    async def task(pilot: Pilot[None]) -> None:
        await pilot.press("c")
        await shows(pilot, f"copied: magic watch {finished.id[:8]}")
        assert app.clipboard == f"magic watch {finished.id}"

    drive(app, task)
    assert (tmp_path / "buffer").read_text() == f"magic watch {finished.id}"
    (copy,) = external.copies_folder().iterdir()
    assert copy.read_text() == f"magic watch {finished.id}"


def test_copying_without_tmux_still_leaves_a_file() -> None:
    went = external.copy_everywhere("text", "name")
    assert went[0] == "clipboard" and len(went) == 2 and went[1].endswith("copies")
    (copy,) = external.copies_folder().iterdir()
    assert copy.read_text() == "text"
    assert len(f"documents copied to {', '.join([*went, 'tmux'])}") <= 66


def test_copying_where_no_file_may_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    monkeypatch.setenv("MAGIC_STATE_DIR", str(tmp_path / "open"))
    assert external.copy_everywhere("text", "name") == ["clipboard"]


def test_a_copy_is_reported_in_one_line(finished: RunFolder) -> None:
    app = MagicApp(finished.path.parent, finished.id, 6)

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "most helpful documents")
        await pilot.press("y")
        await shows(pilot, "why copied to clipboard, ")
        assert any(line.rstrip().endswith("copies") for line in screen_lines(app))

    drive(app, task)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_plain_terminals_get_neither_colour_nor_signs(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "linux")

    async def task(pilot: Pilot[None]) -> None:
        await pilot.pause(0.3)
        for strip in pilot.app.screen._compositor.render_strips():
            for segment in strip:
                assert segment.text.isascii(), segment
                style = segment.style
                if style is not None:
                    assert style.color is None or style.color.is_default, segment
                    assert style.bgcolor is None or style.bgcolor.is_default, segment

    drive(MagicApp(finished.path.parent, finished.id, number), task)


@pytest.mark.parametrize(
    ("settings", "speaks"),
    [
        ({"LANG": "C"}, False),
        ({"LANG": "POSIX"}, False),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, False),
        ({"LC_CTYPE": "C.UTF-8"}, True),
        ({"LANG": "de_DE.UTF-8"}, True),
        ({"LANG": "en_US.utf8", "LC_CTYPE": "C"}, False),
        ({"LANG": "C", "LC_ALL": "C.UTF-8"}, True),
        ({"LANG": "C.UTF-8", "LC_ALL": ""}, True),
        ({"LANG": "en_US.ISO-8859-1"}, False),
        ({"LANG": "C.UTF-8", "TERM": "linux"}, False),
        ({}, True),
    ],
    ids=str,
)
def test_the_locale_says_which_signs_are_drawn(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], speaks: bool
) -> None:
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert supports_unicode() == speaks


def test_the_palette_in_ascii_has_no_question_marks(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")

    async def task(pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+p")
        await shows(pilot, "Search")
        assert screen_text(pilot.app).isascii() and "??" not in screen_text(pilot.app)

    drive(MagicApp(finished.path.parent, finished.id, 1), task)


def test_help_scrolls_to_its_ends(finished: RunFolder) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await pilot.press("question_mark")
        await shows(pilot, "esc closes")
        top = screen_text(pilot.app)
        await pilot.press("G")
        await shows(pilot, "Quit the dashboard")
        await pilot.press("g")
        await until(pilot, lambda: screen_text(pilot.app) == top)

    drive(MagicApp(finished.path.parent, finished.id, 3), task)


def test_a_resize_in_flight_holds(finished: RunFolder) -> None:
    async def task(pilot: Pilot[None]) -> None:
        for size in ((120, 40), (40, 12), (20, 6), (200, 55), (80, 24)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            assert all(len(line) == size[0] for line in screen_lines(pilot.app))

    for number in (0, 1, 2):
        drive(MagicApp(finished.path.parent, finished.id, number), task)


def test_the_verb_needs_a_terminal(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "magic_tui", "tui", "--runs-dir", str(tmp_path)],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert done.returncode == 2 and "needs a terminal" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "opened"),
    [
        ([], (None, None, True)),
        (["abc", "--no-mouse"], ("abc", None, False)),
        (["--runs-dir", "/runs", "abc"], ("abc", Path("/runs"), True)),
        (["--runs-dir=/runs"], (None, Path("/runs"), True)),
        *(
            (unusual, None)
            for unusual in (["--help"], ["a", "b"], ["--runs-dir"], ["--mouse"], [""])
        ),
    ],
    ids=str,
)
def test_simple_arguments_need_no_command_line_library(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], opened: tuple[Any, ...] | None
) -> None:
    calls: list[tuple[Any, ...]] = []

    class Opened:
        def __init__(self, run: str | None, runs_dir: Path | None) -> None:
            self.what = run, runs_dir

        def run(self, mouse: bool) -> None:
            calls.append((*self.what, mouse))

    monkeypatch.setattr(dashboard, "dashboard", Opened)
    assert dashboard.open_plainly(arguments) == (opened is not None)
    assert calls == ([] if opened is None else [opened])


def test_what_goes_wrong_is_left_to_the_verb(tmp_path: Path) -> None:
    assert not dashboard.open_plainly(["no-such-run", "--runs-dir", str(tmp_path)])
