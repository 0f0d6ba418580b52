"""Screen 7: influence over the steps, and the documents of a batch."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from textual.pilot import Pilot

from engine.runs.arrays import open_array
from engine.runs.journal import JournalWriter
from engine.runs.run_folder import RunFolder
from engine.runs.run_history import read_history
from engine.runs.tables import RowTable
from engine.scores.attribution import open_attribution
from magic_tui.dashboard.app import MagicApp
from magic_tui.explore.curves import batch_documents, read_curves
from magic_tui.explore.over_training_screen import BatchList, OverTrainingScreen
from magic_tui.widgets.step_charts import (
    SignedScale,
    StepCharts,
    Window,
    filled_rows,
    signed_rows,
)
from tests.cli.fake_run import FakeRun
from tests.tui.driving import Terminal, drive, screen_lines, screen_text, shows, until
from tests.tui.kept_run import HOSTILE, assert_harmless, write_kept

INFLUENCE = np.array([0.5, -0.1, 0.0, -3.0, -0.2, 0.1, 0.2, -0.3, 0.1, 0.1, -0.1, 0.1])


@pytest.fixture
def run_folder(tmp_path: Path) -> RunFolder:
    run = write_kept(tmp_path / "runs")
    scores = open_array(run.attributions / "a0001" / "scores.zarr", "step_scores", "r+")
    scores[0], scores[1] = INFLUENCE, -INFLUENCE
    return run


def app_of(run: RunFolder) -> MagicApp:
    return MagicApp(run.path.parent, run.id, start=7)


def charts(pilot: Pilot[None]) -> StepCharts:
    return pilot.app.screen.query_one(StepCharts)


async def ready(pilot: Pilot[None]) -> None:
    await until(pilot, lambda: charts(pilot).charts, "curves")


def test_curves_are_those_of_the_store_and_the_journal(run_folder: RunFolder) -> None:
    curves = read_curves(open_attribution(run_folder), 0)
    assert np.allclose(curves.influence, INFLUENCE)
    assert np.allclose(curves.cumulative, np.cumsum(INFLUENCE))
    assert np.allclose(curves.losses, 6.0 - 0.1 * np.arange(12))
    assert np.allclose(curves.rates, 1e-3)
    assert curves.share(3, 4) == pytest.approx(3.0 / np.abs(INFLUENCE).sum())
    lines = curves.csv().splitlines()
    assert len(lines) == 13 and lines[4].split(",")[0] == "3"
    assert float(lines[4].split(",")[1]) == -3.0


def test_a_step_taken_twice_counts_as_it_was_taken_last(run_folder: RunFolder) -> None:
    assert read_history(run_folder).by_step("loss", 12)[3] == pytest.approx(5.7)
    journal = JournalWriter(run_folder.events_file)
    journal.append("train_step", step=3, loss=9.5, seconds=0.1, learning_rate=2e-3)
    journal.close()
    history = read_history(run_folder)
    assert (history.by_step("loss", 12)[3], history.by_step("learning_rate", 12)[3]) == (9.5, 2e-3)
    run_folder.events_file.unlink()
    assert not read_history(run_folder).step_seconds


def test_the_documents_of_a_batch(run_folder: RunFolder) -> None:
    opened = open_attribution(run_folder)
    table, scores = RowTable(run_folder.rows_store), opened.document_scores(0)
    for step in (0, 5, 11):
        batch = batch_documents(opened, 0, step)
        rows = np.flatnonzero((table.steps() == step).any(1))
        owners = table.document_ids()[rows]
        assert {each.document for each in batch} == set(owners[owners >= 0].tolist())
        assert sum(each.tokens for each in batch) == (owners >= 0).sum()
        assert all(each.score == scores[each.document] for each in batch)
        sizes = [abs(each.score) for each in batch]
        assert sizes == sorted(sizes, reverse=True)


def test_windows_share_the_columns() -> None:
    wide, narrow = Window(0, 12, 60), Window(10, 100, 30)
    assert (wide.columns_per_step, wide.groups) == (5, 12)
    assert wide.steps_of(3) == (3, 4) and wide.columns_of(3) == (15, 20)
    assert (narrow.steps_per_column, narrow.groups) == (4, 25)
    assert narrow.steps_of(24) == (106, 110) and narrow.group_of(109) == 24
    values = np.arange(200.0)
    values[12] = np.nan
    assert narrow.grouped(values, "sum")[0] == 10 + 11 + 13
    assert narrow.grouped(values, "mean")[0] == pytest.approx(34 / 3)
    assert narrow.grouped(values, "last")[0] == 13
    assert np.isnan(narrow.grouped(np.full(200, np.nan), "sum")).all()


def test_bars() -> None:
    values = np.array([2.0, 1.0, 1e-9, 0.0, -1.0, np.nan])
    scale = SignedScale.of(values, 4)
    assert (scale.above, scale.below, scale.unit) == (2, 1, 1.0)
    assert signed_rows(values, scale) == ["█     ", "██▄   ", "──────", "    █ "]
    assert SignedScale.of(np.zeros(3), 5).unit == 0
    assert filled_rows(np.array([0.0, 1.0, np.nan]), 2, 0.0, 1.0) == [" █ ", "▁█ "]


def test_the_cursor_shows_every_figure(run_folder: RunFolder, terminal: Terminal) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await ready(pilot)
        # It starts where the influence is strongest.
        await shows(pilot, "step 3: helpful -3.000e+00")
        text = screen_text(pilot.app)
        assert "62 % of all · so far -2.600e+00 · loss 5.7000" in text
        assert "influence" in text and "loss 6" in text and "▲ 3" in text
        assert "█" in text
        await pilot.press("l")
        await shows(pilot, "step 4: helpful -2.000e-01")
        await pilot.press("G")
        await shows(pilot, "step 11: harmful +1.000e-01")
        await pilot.press("g")
        await shows(pilot, "step 0: harmful")
        await pilot.press("n")
        await shows(pilot, "step 3:")
        await pilot.press("Q")
        await shows(pilot, "step 3: harmful +3.000e+00")
        assert pilot.app.screen.selection.query == 1  # type: ignore[attr-defined]
        await pilot.press("colon", "7", "enter")
        await shows(pilot, "step 7:")

    drive(app_of(run_folder), task, terminal)


def test_zooming_keeps_the_cursor_in_view(run_folder: RunFolder) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await ready(pilot)
        for key in ("plus", "plus", "plus", "G", "minus", "g", "minus", "minus"):
            await pilot.press(key)
            lines = screen_lines(pilot.app)
            cursor = charts(pilot).cursor
            assert any(f"▲ {cursor}" in line for line in lines), key
        assert charts(pilot).group == (0, 1)

    drive(app_of(run_folder), task)


def test_enter_opens_the_batch_and_its_document(run_folder: RunFolder) -> None:
    app = app_of(run_folder)
    expected = batch_documents(open_attribution(run_folder), 0, 3)

    async def task(pilot: Pilot[None]) -> None:
        await ready(pilot)
        await pilot.press("enter")
        await shows(pilot, f"batch of step 3: {len(expected)} documents")
        await until(pilot, lambda: isinstance(app.focused, BatchList), "list")
        await pilot.press("escape")
        assert isinstance(app.focused, StepCharts)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.focused, BatchList), "list again")
        await pilot.press("j", "enter")
        await until(pilot, lambda: app.selection.document is not None, "document")

    drive(app, task)
    assert app.selection.document == expected[1].document


@pytest.mark.parametrize("size", [(80, 24), (40, 10), (30, 6), (200, 55), (81, 23)])
def test_any_size_holds(run_folder: RunFolder, size: tuple[int, int]) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await ready(pilot)
        for width, height in (size, (120, 40), size):
            await pilot.resize_terminal(width, height)
            await pilot.press("l", "plus", "minus")
            assert all(len(line) <= width for line in screen_lines(pilot.app))

    drive(app_of(run_folder), task)


def test_no_attribution_yet_and_a_run_that_vanishes(tmp_path: Path) -> None:
    run = FakeRun(finished=False).write(tmp_path / "runs")

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "no scores yet")
        await pilot.press("enter", "n", "Q", "plus", "y")
        shutil.rmtree(run.path)
        pilot.app.select(query=1)  # type: ignore[attr-defined]
        await shows(pilot, "! ")
        assert "Traceback" not in screen_text(pilot.app)

    drive(app_of(run), task)


def test_hostile_documents(tmp_path: Path) -> None:
    texts: list[Any] = [f"{each} and more" for each in HOSTILE if "\ud800" not in each]
    run_folder = write_kept(tmp_path / "runs", FakeRun(texts=texts, queries=texts[:2]))

    async def task(pilot: Pilot[None]) -> None:
        await ready(pilot)
        await pilot.press("enter")
        await shows(pilot, "batch of step")
        assert isinstance(pilot.app.screen, OverTrainingScreen)
        for _ in range(3):
            await pilot.pause(0.05)
            assert_harmless(screen_text(pilot.app))
            await pilot.press("j", "Q")

    drive(app_of(run_folder), task)
