"""Screen 3: texts, their losses, the basket with its cost, and submitting."""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.pilot import Pilot

from engine.runs.config import RunConfig, as_plain
from engine.runs.errors import UsageError
from engine.runs.request import LONGEST_TEXT
from engine.runs.run_folder import RunFolder
from engine.runs.tables import write_queries
from magic_tui.client import worker
from magic_tui.dashboard.app import MagicApp
from magic_tui.queries import queries_screen
from magic_tui.queries.candidates import Candidate
from magic_tui.queries.queries_screen import CandidateList, QueriesScreen
from magic_tui.queries.sources import Source
from magic_tui.widgets.prompt import OrderedInput
from magic_tui.widgets.selection import Selection
from tests.cli.fake_run import FakeRun
from tests.fake_engine import FakeEngine
from tests.tui.driving import Terminal, drive, screen_lines, screen_text, shows, until
from tests.tui.kept_run import HOSTILE, assert_harmless, record_costs, write_kept

Requests = Callable[[], list[Any]]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return write_kept(tmp_path / "runs")


@pytest.fixture
def requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Requests:
    """Put a small script in the worker's place; call for its requests."""
    script, log = Path(__file__).with_name("fake_losses.py"), tmp_path / "asked.jsonl"
    monkeypatch.setattr(worker, "WORKER_COMMAND", [sys.executable, str(script)])
    monkeypatch.setenv("FAKE_LOSSES_LOG", str(log))
    return lambda: [json.loads(line) for line in log.read_text().splitlines()]


def app_of(run: RunFolder) -> MagicApp:
    return MagicApp(run.path.parent, run.id, start=3)


def screen_of(pilot: Pilot[None]) -> QueriesScreen:
    screen = pilot.app.screen
    assert isinstance(screen, QueriesScreen)
    return screen


async def type_line(pilot: Pilot[None], key: str, text: str) -> None:
    """Press the key that opens the line, type into it, and take it."""
    await pilot.press(key)
    for character in text:
        await pilot.press("space" if character == " " else character)
    await pilot.press("enter")


def test_a_basket_is_submitted_with_its_cost(run: RunFolder, engine: FakeEngine) -> None:
    record_costs(run)
    engine.add(run.id, "succeeded", path=str(run.path))

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "who sat on the mat?")
        assert "6.0000 →  3.0000" in screen_text(pilot.app)
        await pilot.press("space", "space")
        await shows(pilot, "basket: 2 queries")
        # 12 steps of 0.1 s for two queries, and 12 rebuilt states of 0.01 s.
        await shows(pilot, "replay ≈ 1.3 s")
        assert "disk ≈" in screen_text(pilot.app) and "no retraining" in screen_text(pilot.app)
        await pilot.press("a")
        await until(pilot, lambda: engine.of_kind("POST", "/attributions"), "asked")
        await until(pilot, lambda: pilot.app.screen is not None and _number(pilot) == 2, "Live")

    drive(app_of(run), task)
    ((_, _, _, wanted),) = engine.of_kind("POST", "/attributions")
    assert wanted["request"]["texts"] == ["who sat on the mat?", "wörld peace"]
    assert wanted["request"]["reduction"] == "none"


def _number(pilot: Pilot[None]) -> int:
    return int(getattr(pilot.app.screen, "NUMBER", -1))


def test_a_typed_text_with_its_losses(
    run: RunFolder, requests: Requests, terminal: Terminal
) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "who sat on the mat?")
        await type_line(pilot, "i", "the cat sat down")
        await shows(pilot, "typed here")
        await shows(pilot, "basket: 1 query")
        await pilot.press("t")
        await shows(pilot, "mean loss 2.5000")
        await pilot.press("n")
        await shows(pilot, "loss 8.2500")
        await pilot.press("h", "h")
        await shows(pilot, "has no loss")
        await pilot.press("escape")
        assert isinstance(pilot.app.focused, CandidateList)
        if not terminal.colour:
            lines = screen_lines(pilot.app)
            below = next(i for i, line in enumerate(lines) if "⟨90000⟩⟨90001⟩" in line) + 1
            assert "#######" in lines[below]
        await pilot.press("t")
        await pilot.pause(0.2)

    drive(app_of(run), task, terminal)
    # Known losses are not computed again.
    ((verb, options),) = requests()
    assert (verb, options["--run"]) == ("losses", str(run.path))
    assert json.loads(options["--request"])["texts"] == ["the cat sat down"]


def test_texts_of_a_file(run: RunFolder, requests: Requests, tmp_path: Path) -> None:
    rows = [{"q": f"ask{n} ", "a": f"say{n} it"} for n in range(30)]
    file = tmp_path / "q.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "who sat on the mat?")
        await pilot.press("f")
        for character in f"{file} q,a":
            await pilot.press("space" if character == " " else character)
        await pilot.press("enter")
        await shows(pilot, "30 of 30 texts")
        assert "the first of 37" in screen_text(pilot.app)
        await shows(pilot, "ask1 → say1 it")
        await type_line(pilot, "slash", "say2")
        await shows(pilot, "11 of 30 texts")
        await type_line(pilot, "colon", "11")
        screen = screen_of(pilot)
        assert screen.current is not None and screen.current.text == "ask29 say29 it"
        await pilot.press("space")
        command = screen.cli_equivalent()
        assert f"attribute {run.id} --prompt 'ask29 ' --text 'say29 it'" in command
        await pilot.press("t")
        await until(pilot, lambda: len(requests()) == 2, "losses")

    drive(app_of(run), task)
    request = json.loads(requests()[1][1]["--request"])
    assert (request["prompts"], request["texts"]) == (["ask29 "], ["say29 it"])


def test_reduction_basket_and_command(run: RunFolder) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "who sat on the mat?")
        screen = screen_of(pilot)
        assert screen.disabled_reason("attribute") is not None
        await pilot.press("space", "space", "r")
        await shows(pilot, "the mean loss of 2 texts")
        assert "--reduction mean" in screen.cli_equivalent()
        await pilot.press("r")
        await shows(pilot, "the summed loss of 2 texts")
        await pilot.press("b")
        await shows(pilot, "2 of 2 texts · basket")
        await pilot.press("space")
        await shows(pilot, "1 of 1 text · basket")
        await pilot.press("x")
        await shows(pilot, "queries of a0001")
        assert len(screen.basket) == 0

    drive(app_of(run), task)


def test_enter_on_an_attributed_query_opens_its_influences(run: RunFolder) -> None:
    app = app_of(run)

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "who sat on the mat?")
        await pilot.press("j", "enter")
        await until(pilot, lambda: _number(pilot) == 4, "Influences")

    drive(app, task)
    assert (app.selection.attribution, app.selection.query) == ("a0001", 1)


def test_a_runs_own_queries_are_listed_while_it_answers_them(tmp_path: Path) -> None:
    run = FakeRun(finished=False).write(tmp_path)
    config = RunConfig.model_validate(
        {**as_plain(run.config()), "queries": {"path": "/data/own.jsonl"}}
    )
    run.write_config(config, run.id, time.time())
    staging = run.attributions / ".a0001.new"

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "the run has not read its queries yet: /data/own.jsonl")
        staging.mkdir(parents=True)
        write_queries(staging / "stored_queries.parquet", {"id": [0], "text": ["who sat\x1b[2J?"]})
        run.write_prepared({})
        screen_of(pilot).load(run_of(pilot))
        await shows(pilot, "1 of 1 text · queries of a0001, no scores yet")
        await pilot.press("a")
        assert "who sat" in screen_text(pilot.app)
        assert_harmless(screen_text(pilot.app))
        # The request is whole or absent: a reader sees nothing else.
        (staging / "queries.parquet").write_bytes(b"torn")
        screen_of(pilot).load(run_of(pilot))
        await pilot.pause(0.3)
        assert "who sat" in screen_text(pilot.app)
        losses = {"loss_before": [6.5], "loss_after": [4.25]}
        write_queries(staging / "queries.parquet", {"id": [0], "text": ["who sat?"], **losses})
        screen_of(pilot).load(run_of(pilot))
        await shows(pilot, "6.5000 →  4.2500")

    drive(app_of(run), task)


def run_of(pilot: Pilot[None]) -> Selection:
    assert isinstance(pilot.app, MagicApp)
    return pilot.app.selection


def test_without_a_trajectory_nothing_is_submitted(run: RunFolder, engine: FakeEngine) -> None:
    shutil.rmtree(run.trajectory)
    engine.add(run.id, "succeeded", path=str(run.path))
    app, said = app_of(run), []
    app.show_message = lambda sentence, severity="information": said.append(sentence)  # type: ignore[method-assign]

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "who sat on the mat?")
        await pilot.press("space", "a", "t")
        await pilot.pause()

    drive(app, task)
    assert len(said) == 2 and all("has no complete trajectory" in each for each in said)
    assert not engine.of_kind("POST", "/attributions")


def test_a_missing_engine_is_reported(run: RunFolder) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "who sat on the mat?")
        await pilot.press("space", "a")
        await shows(pilot, "!")
        await until(pilot, lambda: not screen_of(pilot)._submitting, "given up")
        assert len(screen_of(pilot).basket) == 1

    drive(app_of(run), task)


def test_a_refusing_worker_is_reported(
    run: RunFolder, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LOSSES", "refuse")

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "who sat on the mat?")
        await pilot.press("t")
        await shows(pilot, "the text is too short")
        assert_harmless(screen_text(pilot.app))

    drive(app_of(run), task)


def test_a_run_deleted_underneath(run: RunFolder) -> None:
    app = app_of(run)

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "who sat on the mat?")
        shutil.rmtree(run.path)
        app.open_screen(3)
        await pilot.press("space")
        app.select(query=1)
        await shows(pilot, "is not a run folder")
        assert "Traceback" not in screen_text(app)

    drive(app, task)


def test_hostile_texts(tmp_path: Path, requests: Requests) -> None:
    texts = [text for text in HOSTILE if text.isprintable() or "\ud800" not in text]
    run = write_kept(tmp_path / "runs", FakeRun(queries=texts))

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "queries of a0001")
        for _ in texts:
            assert_harmless(screen_text(pilot.app))
            await pilot.press("space")
        await pilot.press("b", "t")
        await shows(pilot, "mean loss")
        assert_harmless(screen_text(pilot.app))
        assert "[bold red]markup" in screen_text(pilot.app)

    drive(app_of(run), task)


def test_pasted_text_is_submitted_unchanged_and_drawn_safely(run: RunFolder) -> None:
    pasted = {text: text for text in HOSTILE if "\r" not in text and "\ud800" not in text}
    # Terminals send line feeds as carriage returns; half a character is none.
    pasted |= {"one\r\rtwo\r\n": "one\n\ntwo\n", "\ud800 lone": "? lone", "e\u0301" * 500: ""}

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "who sat on the mat?")
        for text, wanted in pasted.items():
            await pilot.press("i")
            pilot.app.screen.focused.post_message(events.Paste(text))  # type: ignore[union-attr]
            await pilot.press("z")
            await pilot.pause()
            assert_harmless(screen_text(pilot.app))
            await pilot.press("enter")
            await until(
                pilot, lambda: pilot.app.focused is screen_of(pilot).query_one(CandidateList)
            )
            current = screen_of(pilot).current
            assert current is not None and current.text == (wanted or text) + "z"
            assert_harmless(screen_text(pilot.app))

    drive(app_of(run), task)


def test_an_empty_and_a_far_too_long_text(run: RunFolder) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "who sat on the mat?")
        await type_line(pilot, "i", "  ")
        assert not len(screen_of(pilot).basket)
        for characters in (LONGEST_TEXT, LONGEST_TEXT + 1):
            await pilot.press("i")
            paste = events.Paste("漢" * characters)
            pilot.app.screen.focused.post_message(paste)  # type: ignore[union-attr]
            await pilot.press("enter")
            await until(pilot, lambda: not isinstance(pilot.app.focused, OrderedInput))
        await shows(pilot, "100,001 characters")
        (one,) = screen_of(pilot).basket
        assert len(one.text) == LONGEST_TEXT

    drive(app_of(run), task)


def test_an_error_of_a_key_goes_with_the_next_and_names_no_config(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UsageError("queries.path: no file or folder at 'x'")

    monkeypatch.setattr(queries_screen, "read_source", refuse)

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "queries of")
        await pilot.press("f", "x", "enter")
        await shows(pilot, "! no file or folder at 'x'")
        assert "queries.path" not in screen_text(pilot.app)
        await pilot.press("j")
        await until(pilot, lambda: "no file or folder" not in screen_text(pilot.app))

    drive(MagicApp(run.path.parent, run.id, 3), task)


def test_a_long_list_says_where_its_lines_were_cut(run: RunFolder) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "queries of")
        texts = tuple(Candidate(f"{n} " + "wisdom" * 30) for n in range(60))
        screen = pilot.app.screen
        assert isinstance(screen, QueriesScreen)
        screen.sources["long"] = Source("long", texts, len(texts))
        screen._show_source("long")
        await shows(pilot, "60 of 60 texts")
        await until(
            pilot,
            lambda: all("…" in s for s in screen_lines(pilot.app)[2:9]),
            "an ellipsis before the scrollbar",
        )

    drive(MagicApp(run.path.parent, run.id, 3), task)
