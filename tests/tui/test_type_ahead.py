"""Keys typed faster than they are handled run in order, on the right screen, without a crash."""

import random
from pathlib import Path

import pytest
from textual import events
from textual.pilot import Pilot

from engine.runs.run_folder import RunFolder
from magic_tui.dashboard.app import MagicApp, save_traceback
from tests.tui.driving import drive, screen_text, shows, until

KEYS = [
    *"0123456789lnwjkGgfitcysaDprxbm",
    *("enter", "escape", "question_mark", "ctrl+p", "slash", "colon", "space", "tab", "up", "down"),
    *("plus", "left_square_bracket"),
]
WORST = ["l", "enter", "n", "escape", "1", "2", "4", "question_mark"]


def post(pilot: Pilot[None], *keys: str) -> None:
    """Type without waiting."""
    for key in keys:
        pilot.app.post_message(events.Key(key, key if len(key) == 1 else None))


def stack(pilot: Pilot[None]) -> list[str]:
    return [type(screen).__name__ for screen in pilot.app.screen_stack[1:]]


@pytest.mark.parametrize("opens", ["l", "enter"])
def test_a_key_after_the_one_that_opens_a_run_meets_the_run(
    finished: RunFolder, opens: str
) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "my run")
        post(pilot, opens, "n", "question_mark")
        await shows(pilot, "Influences – esc closes")
        assert stack(pilot) == ["InfluencesScreen", "HelpScreen"]

    drive(MagicApp(finished.path.parent, finished.id, 1), task)


def test_what_is_typed_after_a_key_that_asks_is_its_answer(finished: RunFolder) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "my run")
        post(pilot, "n", *"nowhere", "enter")
        await shows(pilot, "no config file at nowhere")

    drive(MagicApp(finished.path.parent, finished.id, 1), task)


def test_leaving_twice_leaves_once(finished: RunFolder) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "my run")
        post(pilot, "n", "escape", "escape", "escape", "question_mark")
        await shows(pilot, "Runs – esc closes")
        assert stack(pilot) == ["RunsScreen", "HelpScreen"]

    drive(MagicApp(finished.path.parent, finished.id, 1), task)


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))]
)
def test_no_burst_of_keys_crashes(finished: RunFolder, seed: int) -> None:
    chance = random.Random(seed)

    async def task(pilot: Pilot[None]) -> None:
        for _ in range(12):
            among = KEYS if chance.random() < 0.6 else WORST
            post(pilot, *(chance.choice(among) for _ in range(chance.randint(2, 8))))
            await pilot.pause(chance.choice([0, 0.01, 0.05]))
        assert pilot.app.screen_stack and pilot.app._exception is None

    drive(MagicApp(finished.path.parent, finished.id, chance.randrange(9)), task)


def test_keys_after_leaving_are_nothing(finished: RunFolder) -> None:
    async def task(pilot: Pilot[None]) -> None:
        post(pilot, "q", "l", "n", "2")
        await until(pilot, lambda: not pilot.app.is_running)

    drive(MagicApp(finished.path.parent, finished.id, 1), task)


def test_an_unexpected_error_is_reported_in_a_sentence(
    finished: RunFolder, capsys: pytest.CaptureFixture[str], places: Path
) -> None:
    async def task(pilot: Pilot[None]) -> None:
        def fail() -> None:
            raise ZeroDivisionError("a mistake")

        pilot.app.screen.call_later(fail)
        await until(pilot, lambda: not pilot.app.is_running)

    with pytest.raises(ZeroDivisionError):
        drive(MagicApp(finished.path.parent, finished.id, 1), task)
    said = capsys.readouterr().err
    assert "magic tui closed after an error (ZeroDivisionError); runs continue" in said
    assert "Traceback" not in said and "locals" not in said
    log = places / "state" / "dashboard-error.log"
    assert "a mistake" in log.read_text() and log.stat().st_mode & 0o77 == 0


def test_the_sentence_needs_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    monkeypatch.setenv("MAGIC_STATE_DIR", str(tmp_path / "open"))
    assert "ValueError: so it is" in save_traceback(ValueError("so it is"), "trace")
    assert not list((tmp_path / "open").iterdir())


def test_the_offers_of_a_new_run_are_taken_from_its_prompt(tmp_path: Path) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "Which training documents")
        post(pilot, "1", "n")
        await shows(pilot, "config file, or")
        assert "finetune-jsonl" in screen_text(pilot.app)
        post(pilot, "down", "enter")
        await shows(pilot, "learning rate")
        await shows(pilot, "finetune-jsonl.yaml")

    drive(MagicApp(tmp_path, start=0), task)
