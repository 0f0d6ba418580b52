"""Starting a run: cost first, mistakes beside their field, then Live."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml
from textual.pilot import Pilot

from magic_tui.client import worker
from magic_tui.dashboard.app import MagicApp
from magic_tui.runs.config_draft import FIELDS, Draft, Field
from tests.fake_engine import FakeEngine
from tests.tui.driving import Terminal, drive, screen_text, shows, until

SCRIPT = Path(__file__).resolve().parents[1] / "cli" / "fake_worker.py"


@pytest.fixture(autouse=True)
def _fake_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "WORKER_COMMAND", [sys.executable, str(SCRIPT)])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n')
    path = tmp_path / "mine.yaml"
    values = {"name": "mine", "model": {"path": "org/tiny"}, "data": {"path": "texts.jsonl"}}
    path.write_text(yaml.safe_dump(values))
    return path


def test_the_demo_shows_its_cost_and_starts(tmp_path: Path, engine: FakeEngine) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await shows(pilot, "1,234,567 parameters")
        text = screen_text(pilot.app)
        assert "learning rate" in text and "0.006" in text and "replay" in text
        assert engine.of_kind("POST", "/v1/runs") == []
        await pilot.press("s")
        await until(pilot, lambda: engine.of_kind("POST", "/v1/runs"))
        await until(pilot, lambda: getattr(pilot.app.screen, "NUMBER", 0) == 2)
        (request,) = engine.of_kind("POST", "/v1/runs")
        assert request[3]["config"]["name"] == "demo"
        assert pilot.app.selection.run == request[3]["id"]  # type: ignore[attr-defined]
        await pilot.press("escape")
        await until(pilot, lambda: getattr(pilot.app.screen, "NUMBER", None) != 2)

    drive(MagicApp(tmp_path / "none", start=0), task)


def test_fields_are_edited_and_errors_are_beside_them(config: Path, engine: FakeEngine) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await pilot.press("n", *str(config), "enter")
        await shows(pilot, "parameters")
        await pilot.press("j", "j", "j", "enter", "ctrl+u", "1", "enter")
        await shows(pilot, "! give 2 or more")
        await pilot.press("s")
        await shows(pilot, "a field is invalid")
        await pilot.press("enter", "ctrl+u", *"64", "enter")
        await until(pilot, lambda: "row length: give" not in screen_text(pilot.app))
        await shows(pilot, "parameters")
        await pilot.press("s")
        await until(pilot, lambda: engine.of_kind("POST", "/v1/runs"))
        sent = engine.of_kind("POST", "/v1/runs")[0][3]["config"]
        assert sent["data"]["sequence_length"] == 64
        assert sent["data"]["path"] == str(config.parent / "texts.jsonl")

    drive(MagicApp(config.parent / "runs", start=0), task)
    assert "sequence_length" not in config.read_text()


def test_a_cost_longer_than_its_place_is_scrolled(tmp_path: Path) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await shows(pilot, "1,234,567 parameters")
        await shows(pilot, "pgdn shows the rest")
        assert "free: " not in screen_text(pilot.app)
        await pilot.press("pagedown", "pagedown")
        await shows(pilot, "free: ")
        await pilot.press("pageup", "pageup")
        await shows(pilot, "1,234,567 parameters")
        await pilot.resize_terminal(120, 40)
        await until(pilot, lambda: "pgdn" not in screen_text(pilot.app))
        assert "free: " in screen_text(pilot.app)

    drive(MagicApp(tmp_path, start=0), task, Terminal(80, 20))


def test_what_counting_finds_stands_beside_its_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "refuse")

    async def task(pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await until(pilot, lambda: screen_text(pilot.app).count("no file x.jsonl") == 2)
        (line,) = (s for s in screen_text(pilot.app).splitlines() if "training data" in s)
        assert "! no file x.jsonl" in line
        # Counted again at once, it would be refused again at once.
        monkeypatch.setenv("FAKE_WORKER", "good")
        await pilot.press("j", "j", "j", "j", "enter", "ctrl+u", "7", "enter")
        await until(pilot, lambda: "no file x.jsonl" not in screen_text(pilot.app))

    drive(MagicApp(tmp_path, start=0), task)


def test_the_error_of_the_field_under_the_cursor_is_complete(config: Path) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await pilot.press("n", *str(config), "enter")
        await shows(pilot, "parameters")
        await pilot.press(*"jjjjjjj", "enter", "ctrl+u", *"abc", "enter")
        await shows(pilot, "! learning rate: give a number, such as 0.001 or 1e-3")
        await pilot.press("k")
        await until(pilot, lambda: "learning rate: give" not in screen_text(pilot.app))

    drive(MagicApp(config.parent / "runs", start=0), task)


def test_a_mended_field_is_counted_by_itself(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_WORKER", "refuse")

    async def task(pilot: Pilot[None]) -> None:
        await pilot.press("n", *str(config), "enter")
        await shows(pilot, "the cost is unknown")
        monkeypatch.setenv("FAKE_WORKER", "good")
        await pilot.press("j", "j", "enter", *"2", "enter")
        await shows(pilot, "parameters")
        assert "unknown" not in screen_text(pilot.app)

    drive(MagicApp(config.parent / "runs", start=0), task)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_invalid_value_has_an_error(config: Path, field: Field) -> None:
    draft = Draft(config)
    good = draft.values
    for text in ("", "abc", "-1", "1.5", "1e400", "nan", "x" * 300, "\x1b[31m", "7" * 30):
        draft.values = good
        draft.change(field.key, text)
        for key, problem in draft.problems().items():
            assert key == field.key
            assert problem.startswith(("give ", "too large")) and "string" not in problem
    wrong = {"name": "", "model": "", "training data": "", "queries": None}.get(field.name, "abc")
    if wrong is not None:
        draft.change(field.key, wrong)
        assert draft.problems()


def test_names_and_paths_may_be_numbers(config: Path) -> None:
    draft = Draft(config)
    for key in (("name",), ("model", "path"), ("data", "path"), ("queries", "path")):
        draft.change(key, "2024")
    assert not draft.problems() and draft.config().name == "2024"


def test_a_file_that_is_no_config_is_reported(tmp_path: Path) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await pilot.press("n", *"nowhere.yaml", "enter")
        await shows(pilot, "no config file at nowhere.yaml")
        await pilot.press("s")
        await shows(pilot, "f opens a file")
        await pilot.press("escape")
        await shows(pilot, "Which training documents")

    drive(MagicApp(tmp_path, start=0), task)


def test_a_cost_that_cannot_be_estimated_has_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER", "refuse")

    async def task(pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await shows(pilot, "no file x.jsonl")
        await shows(pilot, "the cost is unknown")
        await pilot.press("s")
        await shows(pilot, "estimating the cost first")

    drive(MagicApp(tmp_path, start=0), task)


def test_leaving_ends_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_WORKER", "slow")
    noted = tmp_path / "pid"
    monkeypatch.setenv("FAKE_WORKER_PID", str(noted))

    async def task(pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await until(pilot, noted.exists, "the worker")
        await pilot.press("escape")
        await shows(pilot, "Which training documents")

    drive(MagicApp(tmp_path, start=0), task)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(int(noted.read_text()), 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.kill(int(noted.read_text()), signal.SIGKILL)
    raise AssertionError("the worker still runs")
