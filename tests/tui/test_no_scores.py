"""Screens 4 to 8 before there are scores, when scores come, and when they cannot be read."""

import shutil
from pathlib import Path

import pytest
from textual.pilot import Pilot

from engine.runs.run_folder import RunFolder
from engine.runs.states import RunState
from magic_tui.dashboard.app import MagicApp
from magic_tui.explore.influences_screen import InfluencesScreen
from magic_tui.explore.no_scores import why_no_scores
from magic_tui.widgets.lines import Lines
from tests.cli.fake_run import FakeRun
from tests.fake_engine import FakeEngine, run_view
from tests.tui.driving import drive, screen_text, shows, until
from tests.tui.kept_run import write_kept

PHASE = {
    "done": 12, "total": 40, "step": 28, "step_seconds": None, "loss": None,
    "remaining_seconds": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magic_tui.explore.explore_screen._RETRY_SECONDS", 0.1)
    monkeypatch.setattr("magic_tui.widgets.header._LOOK_SECONDS", 0.1)


@pytest.mark.parametrize("phase", ["prepare", "train", "measure", "replay"])
def test_the_phase_of_a_running_run(tmp_path: Path, engine: FakeEngine, phase: str) -> None:
    run = FakeRun(finished=False).write(tmp_path)
    view = run_view(run.id, RunState.RUNNING, phase={**PHASE, "phase": phase})
    engine.runs[run.id] = view
    sentence = why_no_scores(run)
    words = {"prepare": "prepared", "train": "training", "measure": "measured", "replay": "replay"}
    assert sentence is not None and words[phase] in sentence and "12 of 40" in sentence


@pytest.mark.parametrize("state", [s for s in RunState if s != RunState.RUNNING])
def test_every_state_has_a_sentence(tmp_path: Path, engine: FakeEngine, state: RunState) -> None:
    run = FakeRun(finished=False).write(tmp_path)
    engine.runs[run.id] = run_view(run.id, state)
    sentence = why_no_scores(run)
    assert sentence is not None and sentence.startswith("no scores")
    assert "complete attribution" not in sentence and "is " + state not in sentence.split(":")[0]


def test_without_an_engine_or_with_scores(tmp_path: Path) -> None:
    run = FakeRun(finished=False).write(tmp_path)
    assert "attribute a query on screen 3" in str(why_no_scores(run))
    assert why_no_scores(FakeRun().write(tmp_path, "20250102T030405-def456")) is None
    shutil.rmtree(run.path)
    assert "was removed" in str(why_no_scores(run))


@pytest.mark.parametrize("screen", [4, 5, 6, 7, 8])
def test_scores_appear_when_the_attribution_completes(
    tmp_path: Path, engine: FakeEngine, screen: int
) -> None:
    run = write_kept(tmp_path / "runs")
    away = run.path.parent.parent / "away"
    run.attributions.rename(away)
    engine.runs[run.id] = run_view(run.id, "running", phase={**PHASE, "phase": "replay"})

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "no scores yet: the replay is running (12 of 40)")
        assert "not validated" not in screen_text(pilot.app).splitlines()[0]
        away.rename(run.attributions)
        await until(pilot, lambda: "no scores yet" not in screen_text(pilot.app), "scores")
        await shows(pilot, "2 in all" if screen != 8 else "no retraining has been")
        await until(
            pilot, lambda: "not validated" in screen_text(pilot.app).splitlines()[0], "verdict"
        )
        lines = "query,subset,predicted,actual\n" + "".join(f"0,{i},{i},{i}\n" for i in range(9))
        (run.attributions / "a0001" / "validation.csv").write_text(lines)
        await until(pilot, lambda: "✓ trusted" in screen_text(pilot.app).splitlines()[0], "trust")

    drive(MagicApp(run.path.parent, run.id, screen), task)


def two_attributions(tmp_path: Path) -> RunFolder:
    fake = FakeRun()
    run = fake.write(tmp_path)
    fake.scores = -fake.scores[::-1]
    fake.write_attribution(run, "a0002")
    return run


def test_another_attribution_starts_at_its_top(tmp_path: Path) -> None:
    run = two_attributions(tmp_path)

    async def task(pilot: Pilot[None]) -> None:
        app = pilot.app
        assert isinstance(app, MagicApp)
        await shows(pilot, "attribution a0002")
        await shows(pilot, "strongest token")
        screen = app.screen
        assert isinstance(screen, InfluencesScreen)
        await pilot.press("j", "j", "j")
        document = screen.documents.document
        await until(pilot, lambda: app.selection.document == document, "the selection follows")
        app.select(attribution="a0001")
        await until(pilot, lambda: screen.ranked and screen.ranked.attribution == "a0001", "a0001")
        assert screen.documents.cursor == 0
        # Another query keeps the document, except at the top of the list.
        await pilot.press("j", "j")
        document = screen.documents.document
        await until(pilot, lambda: app.selection.document == document, "the selection follows")
        await pilot.press("Q")
        await until(pilot, lambda: screen.ranked and screen.ranked.query == 1, "query 1")
        assert screen.documents.document == document
        await pilot.press("g", "Q")
        await until(pilot, lambda: screen.ranked and screen.ranked.query == 0, "query 0")
        assert screen.documents.cursor == 0

    drive(MagicApp(tmp_path, run.id, 4), task)


@pytest.mark.parametrize("screen", [4, 5, 6, 7, 8])
def test_no_scores_of_one_attribution_are_shown_as_those_of_another(
    tmp_path: Path, screen: int
) -> None:
    run = two_attributions(tmp_path)
    store = run.attributions / "a0001" / "scores.zarr"
    for name in ("document_scores", "step_scores"):
        chunk = next(file for file in (store / name / "c").rglob("*") if file.is_file())
        chunk.write_bytes(b"x" * chunk.stat().st_size)
    if screen == 8:
        (run.attributions / "a0001" / "validation.csv").write_text("nonsense\n1\n")

    async def task(pilot: Pilot[None]) -> None:
        app = pilot.app
        assert isinstance(app, MagicApp)
        text = "no retraining has been" if screen == 8 else "2 in all"
        await shows(pilot, text)
        await pilot.pause(0.2)
        app.select(attribution="a0001")
        await shows(pilot, "! ")
        assert text not in screen_text(app)
        assert not any(lines.text.strip() for lines in app.screen.query(Lines))
        await pilot.press("j", "n", "l", "y", "c", "Q", "s", "m")
        assert app.current_screen is not None and screen == app.current_screen.NUMBER
        app.select(attribution="a0002")
        await shows(pilot, text)

    drive(MagicApp(tmp_path, run.id, screen), task)
