"""Why: the query's own tokens by their losses, requested by key and only once."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.cells import cell_len
from textual.pilot import Pilot

from engine.runs.run_folder import RunFolder
from engine.scores.attribution import QueryDocument
from magic_tui.client import worker
from magic_tui.client.worker import run_worker
from magic_tui.dashboard.app import MagicApp
from magic_tui.dashboard.external import copies_folder
from magic_tui.explore import why_screen as screen
from magic_tui.explore.score_browser import browse
from magic_tui.explore.why_screen import WhyText
from magic_tui.queries.candidates import TextLosses, TokenLoss, candidate_of
from magic_tui.queries.loss_lines import loss_lines
from magic_tui.text.numbers import loss_text
from tests.cli.fake_run import FakeRun
from tests.crash.tiny import tiny_config, tiny_model
from tests.tui.driving import Terminal, drive, screen_lines, screen_text, shows, until
from tests.tui.hostile import unsafe_in
from tests.tui.kept_run import HOSTILE, assert_harmless

Requests = Callable[[], list[Any]]


@pytest.fixture
def requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Requests:
    """Put a small script in the worker's place; call for its requests."""
    script, log = Path(__file__).with_name("fake_losses.py"), tmp_path / "asked.jsonl"
    monkeypatch.setattr(worker, "WORKER_COMMAND", [sys.executable, str(script)])
    monkeypatch.setenv("FAKE_LOSSES_LOG", str(log))
    return lambda: [json.loads(line) for line in log.read_text().splitlines()]


def opened(run: RunFolder) -> MagicApp:
    return MagicApp(run.path.parent, run.id, 6)


def plain(pilot: Pilot[None]) -> str:
    return "\n".join(line.text.plain for line in pilot.app.screen.query_one(WhyText)._lines)


def test_token_losses_are_requested_once(
    finished: RunFolder, requests: Requests, terminal: Terminal
) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "most helpful documents")
        assert "by loss" not in plain(pilot)
        await pilot.press("t")
        await shows(pilot, "its tokens by loss, mean 2.5")
        assert "hardest: " in plain(pilot) and "8.25" in plain(pilot)
        assert all(cell_len(line) <= terminal.width for line in screen_lines(pilot.app))
        lines = pilot.app.screen.query_one(WhyText)._lines
        assert all(line.text.cell_len <= terminal.width for line in lines)
        await pilot.press("y")
        await until(pilot, lambda: list(copies_folder().glob("why-*")), "a copy")
        copies = [each.read_text() for each in copies_folder().glob("why-*")]
        assert any("hardest: " in copy for copy in copies)
        await pilot.press("Q")
        await shows(pilot, "query 1 · 2 in all")
        assert "by loss" not in plain(pilot)
        await pilot.press("Q")
        await shows(pilot, "query 0 · 2 in all")
        await pilot.press("t")
        assert "its tokens by loss" in plain(pilot)
        assert [verb for verb, _ in requests()] == ["losses"]

    drive(opened(finished), task, terminal)


def test_every_text_of_a_query_can_be_shown(tmp_path: Path, requests: Requests) -> None:
    run = FakeRun(queries=["first text here", "second one", "third"], reduction="mean").write(
        tmp_path / "runs"
    )

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "most helpful documents")
        for place in (1, 2, 3, 1):
            await pilot.press("t")
            await shows(pilot, f"the tokens of text {place} of 3 (t: next)")
        texts = [json.loads(options["--request"])["texts"] for _, options in requests()]
        assert texts == [["first text here"], ["second one"], ["third"]]

    drive(opened(run), task)


@pytest.mark.slow
def test_the_real_worker_gives_the_losses(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(tiny_config(tmp_path, tiny_model(tmp_path / "model"))))
    runs = tmp_path / "runs"
    outcome = run_worker(["run", "--config", str(config), "--runs", str(runs), "--id", "r1"])
    run = RunFolder(Path(outcome["path"]))

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "most helpful documents")
        await pilot.press("t")
        await until(pilot, lambda: "its tokens by loss" in plain(pilot), "losses", 60)
        head = next(line for line in plain(pilot).splitlines() if "by loss" in line)
        after = browse(run).attribution.query(0).after
        assert f"mean {loss_text(after)}" in head

    drive(opened(run), task)


def test_waiting_and_refusal_are_sentences(
    finished: RunFolder, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LOSSES", "refuse")
    slow = "import time; time.sleep(0.7); import runpy, sys; sys.argv = sys.argv[1:]; "
    script = str(Path(__file__).with_name("fake_losses.py"))
    run_it = slow + "runpy.run_path(sys.argv[0], run_name='__main__')"
    monkeypatch.setattr(worker, "WORKER_COMMAND", [sys.executable, "-c", run_it, script])

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "most helpful documents")
        await pilot.press("t")
        await shows(pilot, "losses of its tokens: loading the trained model")
        assert pilot.app.screen.disabled_reason("losses") is not None  # type: ignore[attr-defined]
        await shows(pilot, "losses of its tokens: the text is too short")
        assert not unsafe_in(pilot.app)
        # A failed request may be repeated.
        monkeypatch.setenv("FAKE_LOSSES", "")
        await pilot.press("t")
        await shows(pilot, "its tokens by loss")
        assert "too short" not in screen_text(pilot.app)

    drive(opened(finished), task)


@pytest.mark.parametrize("colour", [True, False])
def test_lines_are_cut_and_harmless(colour: bool) -> None:
    tokens = tuple(TokenLoss(text, float(n)) for n, text in enumerate(HOSTILE * 40))
    losses = TextLosses(2.0, (TokenLoss("first", None), *tokens))
    for width in (20, 79):
        lines = list(loss_lines(losses, (0, 3), width, colour))
        assert all(line.cell_len <= width for line in lines)
        text = "\n".join(line.plain for line in lines)
        assert_harmless(text)
        assert "more line" in text or "more" in text
        assert lines[1].plain.startswith("the tokens of te")
        assert len(lines) == 2 + (12 if colour else 24) + 2


def test_a_prompt_is_followed_directly_by_its_completion() -> None:
    columns = {"prompt": "2 + 2 =", "completion": " 4"}
    pair = candidate_of(QueryDocument("2 + 2 = →  4", 1.0, 1.0, 1.0, columns))
    assert (pair.prompt, pair.text) == ("2 + 2 =", "2 + 2 = 4")
    text = candidate_of(QueryDocument("a → b", 1.0, 1.0, 1.0, columns))
    assert (text.prompt, text.text) == ("", "a → b")


def test_losses_are_requested_only_after_reading(tmp_path: Path, requests: Requests) -> None:
    run = FakeRun().write(tmp_path / "runs")

    async def task(pilot: Pilot[None]) -> None:
        why_screen = pilot.app.screen
        assert isinstance(why_screen, screen.WhyScreen)
        why_screen.why = None
        assert why_screen.disabled_reason("losses") == "no scores have been read yet"
        why_screen.action_losses()
        assert why_screen._pending is None

    drive(opened(run), task)
