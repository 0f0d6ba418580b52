"""Document and Why: coloured tokens, exact numbers, sentences that are facts."""

from pathlib import Path

import pytest
from rich.cells import cell_len

from engine.records.run_folder import RunFolder
from magic_tui.app import MagicApp
from magic_tui.client.attribution import open_attribution
from magic_tui.client.explored import explore
from magic_tui.client.why import read_why
from magic_tui.copying import copies_folder
from magic_tui.render.why import sentence
from magic_tui.screens.document_view import find_piece
from magic_tui.widgets.pane import Pane
from magic_tui.widgets.paper import Paper
from tests.cli.fake_run import FakeRun
from tests.tui.driving import Terminal, drive, screen_lines, screen_text, shows, until
from tests.tui.hostile import unsafe_in


def opened(run: RunFolder, screen: int = 5, document: int | None = None) -> MagicApp:
    app = MagicApp(run.path.parent, run.id, screen)
    app.set_reactive(MagicApp.selection, app.selection.with_changes(document=document))
    return app


def test_the_number_under_the_cursor_is_exact(finished: RunFolder, terminal: Terminal) -> None:
    shown = explore(finished).shown(0, 7)
    strong = shown.strongest_pieces(1)[0]

    async def task(pilot):
        app = pilot.app
        await shows(pilot, "document 7 of 23")
        paper = app.screen.query_one(Paper)
        await until(pilot, lambda: paper.height > 0, "text")
        while paper.cursor < strong:
            await pilot.press("l")
        await shows(pilot, f"{shown.piece_score(shown.pieces[strong]):+.6e}")
        await pilot.press("g")
        await pilot.press("n")
        assert abs(paper._shades[paper.cursor].level) >= 2
        await pilot.press("G")
        assert paper.cursor == len(shown.pieces) - 1
        await pilot.press("k", "j", "N", "h", "pagedown", "pageup")
        assert "scale: this document" in screen_text(app)
        if not terminal.colour:
            assert any(set(line.strip()) & set("=#") for line in screen_lines(app)[3:-5])
        assert all(cell_len(line) <= terminal.width for line in screen_lines(app))

    drive(opened(finished, document=7), task, terminal)


def test_query_scale_and_neighbours_in_place(finished: RunFolder, terminal: Terminal) -> None:
    order = explore(finished).ranking(0).order

    async def task(pilot):
        app = pilot.app
        await shows(pilot, f"document {order[0]} of 23")
        await pilot.press("l", "l", "s")
        await shows(pilot, "scale: the 20 strongest documents")
        await pilot.press("Q")
        await shows(pilot, "query 1 of 2")
        assert app.screen.query_one(Paper).cursor == 2
        await pilot.press("Q", "J")
        await shows(pilot, f"document {order[1]} of 23")
        await pilot.press("K")
        await shows(pilot, f"document {order[0]} of 23")
        await pilot.press("colon", "9", "enter")
        await shows(pilot, "document 9 of 23")
        assert app.screen.cli_equivalent().startswith(f"magic show {finished.id} 9 -q 0")
        await pilot.press("colon", "9", "9", "enter")
        await shows(pilot, "has no document 99")

    drive(opened(finished), task, terminal)


def test_marks_copy_and_export(
    finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def task(pilot):
        app = pilot.app
        await shows(pilot, "document 7 of 23")
        paper = app.screen.query_one(Paper)
        lines = paper.height
        await pilot.press("m")
        assert paper.height == 2 * lines
        await pilot.press("y")
        await until(pilot, lambda: list(copies_folder().glob("document-*")), "a copy")
        await pilot.press("e", "enter")
        await until(pilot, lambda: list(tmp_path.glob("*-document-7.csv")), "the csv")
        table = next(tmp_path.glob("*.csv")).read_text().splitlines()
        shown = explore(finished).shown(0, 7)
        assert len(table) == 1 + len(shown.tokens.ids)
        assert float(table[1].split(",")[4]) == pytest.approx(float(shown.scores[0]))

    drive(opened(finished, document=7), task)


def test_search_in_a_document(finished: RunFolder) -> None:
    shown = explore(finished).shown(0, 7)
    text = "".join(piece.text for piece in shown.pieces)
    word = text.split()[5]
    piece = find_piece(shown, word.upper(), 0)
    assert piece is not None
    before = "".join(p.text for p in shown.pieces[: piece + 1])
    assert before.lower().rfind(word[:1].lower()) >= 0
    assert find_piece(shown, "not there", 0) is None


def test_documents_without_token_scores(tmp_path: Path, terminal: Terminal) -> None:
    run = FakeRun(granularity="document").write(tmp_path)

    async def task(pilot):
        await shows(pilot, "keeps those of documents alone")
        await pilot.press("n", "s")
        await shows(pilot, "keeps no scores of tokens")
        assert not unsafe_in(pilot.app)

    drive(opened(run), task, terminal)


def test_a_sentence_is_made_of_facts(finished: RunFolder) -> None:
    attribution = open_attribution(finished)
    why = read_why(explore(finished), 0, 3)
    best = attribution.ranked(0, 1)[0]
    assert why.helpful[0].shown.document == best.document
    told = sentence(why.helpful[0], "loss")
    assert f"leaving document {best.document} out is predicted to raise this loss" in told
    assert f"by {abs(best.score):.3g} (the most helpful; seen at steps" in told
    worst = attribution.ranked(0, 1, harmful=True)[0]
    assert f"lower this loss by {worst.score:.3g}" in sentence(why.harmful[0], "loss")
    listed = {r.shown.document for r in (*why.helpful, *why.harmful)}
    assert (why.chosen is None) == (3 in listed)


def test_why_tells_of_documents_steps_and_trust(finished: RunFolder, terminal: Terminal) -> None:
    best = open_attribution(finished).ranked(0, 1)[0].document

    async def task(pilot):
        app = pilot.app
        await shows(pilot, "what lowered it most")
        await shows(pilot, f"leaving document {best} out")
        pane = app.screen.query_one(Pane)
        assert pane.document == best
        plain = "\n".join(line.plain for line in pane._lines)
        for part in ("what raised it most", "when it happened", "not validated"):
            assert part in plain
        assert all(line.cell_len <= pane.size.width for line in pane._lines)
        await pilot.press("G")
        await shows(pilot, "how far to trust it")
        await pilot.press("g", "j", "y")
        await until(pilot, lambda: list(copies_folder().glob("why-*")), "a copy")
        await pilot.press("enter")
        await until(pilot, lambda: app.shown.NUMBER == 5, "Document")
        assert app.selection.document == explore(finished).strongest(0, 2, False)[1]

    drive(opened(finished, 6), task, terminal)


def test_overlap_is_labelled_apart(tmp_path: Path) -> None:
    texts = ["tea on the mat with a cat", "who sat on the mat", *["rain"] * 6]
    run = FakeRun(texts=texts).write(tmp_path)

    async def task(pilot):
        await shows(pilot, "what lowered it most")
        plain = "\n".join(line.plain for line in pilot.app.screen.query_one(Pane)._lines)
        assert "overlap, not influence: who sat on the mat" in plain
        assert "overlap, not influence: on the mat" in plain

    drive(opened(run, 6), task)


def test_a_line_with_one_style_keeps_it(finished: RunFolder) -> None:
    async def task(pilot):
        await shows(pilot, "what lowered it most")
        strips = pilot.app.screen._compositor.render_strips()
        titles = [s for strip in strips for s in strip if s.text.startswith("what lowered")]
        assert titles and titles[0].style.bold

    drive(opened(finished, 6), task)
