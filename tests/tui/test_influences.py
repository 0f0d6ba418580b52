"""Influences: ranked, searched, compared, copied and exported, at every size."""

import shutil
from pathlib import Path

import pytest
from rich.cells import cell_len

from engine.runs.run_folder import RunFolder
from engine.scores.attribution import open_attribution
from magic_tui.dashboard.app import MagicApp
from magic_tui.dashboard.external import copies_folder
from magic_tui.explore.influences_screen import InfluencesScreen
from magic_tui.explore.score_list import ScoreList
from tests.cli.fake_run import FakeRun, sample_texts
from tests.tui.driving import Terminal, drive, screen_lines, screen_text, shows, until
from tests.tui.hostile import TEXTS, unsafe_in

# Lone surrogates cannot be stored.
STORABLE = [text.encode(errors="replace").decode() for text in TEXTS]


def opened(run: RunFolder, screen: int = 4) -> MagicApp:
    return MagicApp(run.path.parent, run.id, screen)


def test_documents_are_ranked(finished: RunFolder, terminal: Terminal) -> None:
    attribution = open_attribution(finished)
    best = attribution.ranked(0, 1)[0]

    async def task(pilot):
        app = pilot.app
        await shows(pilot, "query 0 · 2 in all")
        await shows(pilot, "strongest token")
        text = screen_text(app)
        assert "23 documents" in text and "loss 6.0000 → 3.0000" in text
        assert "top 10 =" in text
        ranks = app.screen.query_one(ScoreList)
        strongest = max((attribution.document_scores(0)), key=abs)
        assert attribution.document_scores(0)[ranks.document] == strongest
        line = next(line for line in screen_lines(app) if line.startswith("▸"))
        assert f"{strongest:+.3e}" in line and ("█" in line)
        await pilot.press("s")
        await until(pilot, lambda: ranks.ranking.direction == "helpful", "helpful only")
        assert ranks.document == best.document or best.document in ranks.ranking.order
        assert all(cell_len(line) <= terminal.width for line in screen_lines(app))
        assert not unsafe_in(app)

    drive(opened(finished), task, terminal)


def test_moving_marking_and_opening(finished: RunFolder) -> None:
    async def task(pilot):
        app = pilot.app
        await shows(pilot, "strongest token")
        ranks = app.screen.query_one(ScoreList)
        await pilot.press("j", "j", "k", "space")
        assert ranks.cursor == 2 and ranks.marked == {int(ranks.ranking.order[1])}
        await pilot.press("G")
        assert ranks.cursor == 22
        await shows(pilot, "to the cursor 100 %")
        await pilot.press("g", "pagedown")
        assert ranks.cursor > 0
        document = ranks.document
        await pilot.press("colon", "3", "enter")
        await until(pilot, lambda: ranks.cursor == 2, "place 3")
        await pilot.press("colon", *f"d{document}", "enter")
        await until(pilot, lambda: ranks.document == document, "the document")
        await pilot.press("enter")
        await until(pilot, lambda: app.current_screen.NUMBER == 5, "Document")
        assert app.selection.document == document
        await pilot.press("escape")
        await until(pilot, lambda: app.current_screen.NUMBER == 4, "Influences")
        await until(pilot, lambda: ranks.document == document, "the same document")

    drive(opened(finished), task)


def test_search_keeps_the_order(tmp_path: Path) -> None:
    texts = [*sample_texts(20), "a Needle here", "and a needle there", "[needle] x\x1b[2J"]
    run = FakeRun(texts=texts).write(tmp_path)

    async def task(pilot):
        app = pilot.app
        await shows(pilot, "strongest token")
        ranks = app.screen.query_one(ScoreList)
        await pilot.press("slash", *"needle", "enter")
        await shows(pilot, "with “needle”: 3 documents")
        assert set(ranks.ranking.order.tolist()) == {20, 21, 22}
        sizes = [abs(ranks.ranking.values[d]) for d in ranks.ranking.order]
        assert sizes == sorted(sizes, reverse=True)
        assert not unsafe_in(app)
        await pilot.press("escape")
        await until(pilot, lambda: len(ranks.ranking) == 23, "all")
        assert app.current_screen.NUMBER == 4
        await pilot.press("slash", *"nowhere", "enter")
        await shows(pilot, "with “nowhere”: 0 documents")

    drive(opened(run), task)


def test_a_document_selected_elsewhere_outlives_a_list_shown_just_before(
    finished: RunFolder,
) -> None:
    async def task(pilot):
        app = pilot.app
        await shows(pilot, "strongest token")
        ranks = app.screen.query_one(ScoreList)
        other = int(ranks.ranking.order[3])
        # The list reports its cursor only later.
        ranks.update(ranks.ranking, None, None)
        app.select(document=other)
        await until(pilot, lambda: ranks.document == other, "the selected document")
        await pilot.pause()
        assert app.selection.document == other

    drive(opened(finished), task)


def test_another_query_in_place_and_beside(finished: RunFolder) -> None:
    async def task(pilot):
        app = pilot.app
        await shows(pilot, "strongest token")
        await pilot.press("v")
        await shows(pilot, "beside query 1  correlation -1.00 over all 23 documents")
        await pilot.press("v", "Q")
        await shows(pilot, "query 1 · 2 in all  loss 7.0000 → 4.0000")
        assert app.selection.query == 1
        await pilot.press("left_square_bracket")
        await shows(pilot, "query 0 · 2 in all")

    drive(opened(finished), task)


def test_other_figures(finished: RunFolder) -> None:
    async def task(pilot):
        await shows(pilot, "strongest token")
        await pilot.press("m")
        await shows(pilot, "by mean per token")
        await pilot.press("m")
        await shows(pilot, "by strongest token")

    drive(opened(finished), task)


def test_unavailable_actions_show_a_reason(tmp_path: Path) -> None:
    run = FakeRun(queries=["one"], granularity="document").write(tmp_path)

    async def task(pilot):
        app = pilot.app
        await shows(pilot, "no token scores")
        for key, reason in (("Q", "only one query"), ("m", "has no token scores")):
            await pilot.press(key)
            await shows(pilot, reason)
        assert isinstance(app.screen, InfluencesScreen)

    drive(opened(run), task)


def test_copy_command_and_export(finished: RunFolder, tmp_path: Path) -> None:
    async def task(pilot):
        app = pilot.app
        await shows(pilot, "strongest token")
        await pilot.press("space", "space", "y")
        await until(pilot, lambda: list(copies_folder().glob("documents-*")), "a copy")
        copied = next(copies_folder().glob("documents-*")).read_text()
        assert len(copied.splitlines()) == 6 and finished.id in copied
        command = app.screen.cli_equivalent()
        assert command.startswith(f"magic top {finished.id} -q 0 -k ")
        assert f"--runs-dir {finished.path.parent}" in command
        await pilot.press("e")
        prompt = app.screen.query_one("Prompt Input")
        prompt.value = f"csv {tmp_path}/out"
        await pilot.press("enter")
        await until(pilot, lambda: (tmp_path / "out" / "documents.csv").exists(), "the csv")
        await shows(pilot, "1 file written")
        await pilot.press("e")
        app.screen.query_one("Prompt Input").value = f"csv {tmp_path}/out"
        await pilot.press("enter")
        await shows(pilot, "already")

    drive(opened(finished), task)


def test_the_pager_shows_the_list(finished: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    paged: list[str] = []
    monkeypatch.setattr("magic_tui.dashboard.app.open_pager", lambda app, text: paged.append(text))

    async def task(pilot):
        await shows(pilot, "strongest token")
        await pilot.press("o")
        await until(pilot, lambda: paged, "the pager")
        assert len(paged[0].splitlines()) == 4 + 23

    drive(opened(finished), task)


def test_hostile_texts_never_control_the_terminal(tmp_path: Path, terminal: Terminal) -> None:
    run = FakeRun(texts=STORABLE, queries=[TEXTS[0] + TEXTS[4], TEXTS[6]]).write(tmp_path)

    async def task(pilot):
        app = pilot.app
        await shows(pilot, "query 0 · 2 in all")
        await shows(pilot, "[bold red]markup[/]" if terminal.width > 80 else "[bold")
        for key in ("v", "j", "Q", "4", "5", "j", "n", "6", "G"):
            await pilot.press(key)
            await pilot.pause(0.1)
            assert not unsafe_in(app), key
            assert all(cell_len(line) <= terminal.width for line in screen_lines(app))

    drive(opened(run), task, terminal)


def test_a_damaged_store_is_reported_and_read_again(tmp_path: Path) -> None:
    run = FakeRun().write(tmp_path)
    chunk = run.attributions / "a0001/scores.zarr/document_scores/c/0/0"
    good = chunk.read_bytes()
    chunk.write_bytes(b"x" * len(good))

    async def task(pilot):
        await shows(pilot, "is damaged")
        assert pilot.app.current_screen.NUMBER == 4
        chunk.write_bytes(good)
        await shows(pilot, "23 documents")
        await until(pilot, lambda: "is damaged" not in screen_text(pilot.app), "it is gone")

    drive(opened(run), task)


def test_a_deleted_run_is_reported(tmp_path: Path) -> None:
    run = FakeRun().write(tmp_path)

    async def task(pilot):
        await shows(pilot, "strongest token")
        shutil.rmtree(run.path)
        await pilot.press("s")
        await shows(pilot, "was removed")
        await pilot.press("j", "5", "6")
        await shows(pilot, "was removed")

    drive(opened(run), task)


def test_later_scores_do_not_change_the_screen(tmp_path: Path) -> None:
    run = FakeRun().write(tmp_path)
    app = opened(run)

    async def task(pilot):
        await shows(pilot, "strongest token")
        shutil.copytree(run.attributions / "a0001", run.attributions / "a0002")
        await pilot.press("Q")
        await shows(pilot, "query 1 · 2 in all")
        assert app.selection.attribution == "a0001" and app.selection.latest == "a0002"
        assert "-a a0001" in app.screen.cli_equivalent()
        await pilot.press("2", "i")
        await until(pilot, lambda: app.selection.attribution == "a0002", "the latest")
        await shows(pilot, "query 0 · 2 in all")

    drive(app, task)


def test_a_resize_in_flight(finished: RunFolder) -> None:
    async def task(pilot):
        await shows(pilot, "strongest token")
        for size in ((120, 40), (60, 15), (200, 55), (80, 24)):
            await pilot.resize_terminal(*size)
            await pilot.press("j")
            await pilot.pause(0.1)
            lines = screen_lines(pilot.app)
            assert len(lines) == size[1]
            assert all(len(line) <= size[0] for line in lines)
            assert any(line.startswith("▸") for line in lines)

    drive(opened(finished), task)


def test_a_search_and_another_query_are_both_named(tmp_path: Path) -> None:
    run = FakeRun(texts=[*sample_texts(20), "a needle here"]).write(tmp_path)

    async def task(pilot):
        app = pilot.app
        await shows(pilot, "strongest token")
        assert app.screen.cli_note() == ""
        await pilot.press("slash", *"needle", "enter")
        await shows(pilot, "with “needle”: 1 document")
        await pilot.press("v")
        await shows(pilot, "correlation -1.00 over all 21 documents")
        assert "with “needle”: 1 document" in screen_text(app)
        await pilot.press("c")
        await shows(pilot, "without the search and query 1 beside it")

    drive(opened(run), task)


def test_the_attribution_is_changed_in_place(tmp_path: Path) -> None:
    run = FakeRun().write(tmp_path)
    shutil.copytree(run.attributions / "a0001", run.attributions / "a0002")
    app = opened(run)

    async def task(pilot):
        await shows(pilot, "strongest token")
        for wanted in ("a0001", "a0002"):
            await pilot.press("A")
            await until(pilot, lambda w=wanted: app.screen.ranked.attribution == w, wanted)
        # A submitted one without scores yet is named, and left with the same key.
        app.select(attribution="a0003")
        await shows(pilot, "attribution a0003 has no scores")
        await pilot.press("A")
        await until(pilot, lambda: app.screen.ranked is not None, "scores")
        assert app.selection.attribution == "a0002"

    drive(app, task)
