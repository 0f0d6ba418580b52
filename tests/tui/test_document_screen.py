"""Document and Why: coloured tokens, exact numbers, sentences that are facts."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from textual.color import WHITE, Color

from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreShape, ScoreWriter
from engine.runs.tables import write_rows
from engine.scores.attribution import open_attribution
from magic_tui.dashboard import line_filters
from magic_tui.dashboard.app import MagicApp
from magic_tui.dashboard.external import copies_folder
from magic_tui.explore.document_screen import find_piece
from magic_tui.explore.score_browser import browse
from magic_tui.explore.why import read_why, sentence
from magic_tui.explore.why_screen import WhyText
from magic_tui.widgets.token_text import TokenText
from tests.cli.fake_run import FakeRun
from tests.tui.driving import Terminal, drive, screen_lines, screen_text, shows, until
from tests.tui.hostile import unsafe_in


def opened(run: RunFolder, screen: int = 5, document: int | None = None) -> MagicApp:
    app = MagicApp(run.path.parent, run.id, screen)
    app.set_reactive(MagicApp.selection, app.selection.with_changes(document=document))
    return app


def test_the_number_under_the_cursor_is_exact(finished: RunFolder, terminal: Terminal) -> None:
    document = browse(finished).document(0, 7)
    strong = document.strongest_pieces(1)[0]

    async def task(pilot):
        app = pilot.app
        await shows(pilot, "document 7 of 23")
        text = app.screen.query_one(TokenText)
        await until(pilot, lambda: text.text_height > 0, "text")
        while text.cursor < strong:
            await pilot.press("l")
        await shows(pilot, f"{document.piece_scores[strong]:+.6e}")
        await pilot.press("g")
        await pilot.press("n")
        assert abs(text._shading.levels[text.cursor]) >= 2
        await pilot.press("G")
        assert text.cursor == len(document.pieces) - 1
        await pilot.press("k", "j", "N", "h", "pagedown", "pageup")
        assert "scale: this document" in screen_text(app)
        if not terminal.colour:
            assert any(set(line.strip()) & set("=#") for line in screen_lines(app)[3:-5])
        assert all(cell_len(line) <= terminal.width for line in screen_lines(app))

    drive(opened(finished, document=7), task, terminal)


def test_query_scale_and_neighbours_in_place(finished: RunFolder) -> None:
    order = browse(finished).ranking(0).order

    async def task(pilot):
        app = pilot.app
        await shows(pilot, f"document {order[0]} of 23")
        await pilot.press("l", "l", "s")
        await shows(pilot, "scale: the 20 strongest documents")
        await pilot.press("Q")
        await shows(pilot, "query 1 · 2 in all")
        assert app.screen.query_one(TokenText).cursor == 2
        await pilot.press("Q", "J")
        await shows(pilot, f"document {order[1]} of 23")
        await pilot.press("K")
        await shows(pilot, f"document {order[0]} of 23")
        await pilot.press("colon", "9", "enter")
        await shows(pilot, "document 9 of 23")
        assert app.screen.cli_equivalent().startswith(f"magic show {finished.id} 9 -q 0")
        await pilot.press("colon", "9", "9", "enter")
        await shows(pilot, "there is no document 99")

    drive(opened(finished), task)


def test_marks_copy_and_export(
    finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def task(pilot):
        app = pilot.app
        await shows(pilot, "document 7 of 23")
        text = app.screen.query_one(TokenText)
        lines = text.text_height
        await pilot.press("m")
        assert text.text_height == 2 * lines
        await pilot.press("y")
        await until(pilot, lambda: list(copies_folder().glob("document-*")), "a copy")
        await pilot.press("e", "enter")
        await until(pilot, lambda: list(tmp_path.glob("*-document-7.csv")), "the csv")
        table = next(tmp_path.glob("*.csv")).read_text().splitlines()
        document = browse(finished).document(0, 7)
        assert len(table) == 1 + len(document.tokens.ids)
        assert float(table[1].split(",")[4]) == pytest.approx(float(document.scores[0]))

    drive(opened(finished, document=7), task)


def test_search_in_a_document(finished: RunFolder) -> None:
    document = browse(finished).document(0, 7)
    word = "".join(piece.text for piece in document.pieces).split()[5]
    piece = find_piece(document, word.upper(), 0)
    assert piece is not None
    before = "".join(p.text for p in document.pieces[: piece + 1])
    assert before.lower().rfind(word[:1].lower()) >= 0
    assert find_piece(document, "not there", 0) is None


def test_documents_without_token_scores(tmp_path: Path) -> None:
    run = FakeRun(granularity="document").write(tmp_path)

    async def task(pilot):
        await shows(pilot, "stores document scores only")
        await pilot.press("n", "s")
        await shows(pilot, "has no token scores")
        assert not unsafe_in(pilot.app)

    drive(opened(run), task)


def test_a_sentence_is_made_of_facts(finished: RunFolder) -> None:
    attribution = open_attribution(finished)
    why = read_why(browse(finished), 0, 3)
    best = attribution.ranked(0, 1)[0]
    assert why.helpful[0].document.document == best.document
    text = sentence(why.helpful[0], "loss")
    assert f"leaving document {best.document} out is predicted to raise this loss" in text
    assert f"by {abs(best.score):.3g} (the most helpful; seen at steps" in text
    worst = attribution.ranked(0, 1, harmful=True)[0]
    assert f"lower this loss by {worst.score:.3g}" in sentence(why.harmful[0], "loss")
    listed = {r.document.document for r in (*why.helpful, *why.harmful)}
    assert (why.selected is None) == (3 in listed)


def test_why_reports_documents_steps_and_trust(finished: RunFolder, terminal: Terminal) -> None:
    best = open_attribution(finished).ranked(0, 1)[0].document

    async def task(pilot):
        app = pilot.app
        await shows(pilot, "most helpful documents")
        await shows(pilot, f"leaving document {best} out")
        pane = app.screen.query_one(WhyText)
        assert pane.document == best
        plain = "\n".join(line.text.plain for line in pane._lines)
        for part in ("most harmful documents", "influence over training", "not validated"):
            assert part in plain
        assert all(line.text.cell_len <= pane.size.width - 2 for line in pane._lines)
        await pilot.press("G")
        await shows(pilot, "more with 8")
        await pilot.press("g", "n", "n", "y")
        await until(pilot, lambda: list(copies_folder().glob("why-*")), "a copy")
        await pilot.press("enter")
        await until(pilot, lambda: app.current_screen.NUMBER == 5, "Document")
        assert app.selection.document == browse(finished).strongest(0, 2, False)[1]

    drive(opened(finished, 6), task, terminal)


def test_overlap_is_labelled_apart(tmp_path: Path) -> None:
    texts = ["tea on the mat with a cat", "who sat on the mat", *["rain"] * 6]
    run = FakeRun(texts=texts).write(tmp_path)

    async def task(pilot):
        await shows(pilot, "most helpful documents")
        plain = "\n".join(line.text.plain for line in pilot.app.screen.query_one(WhyText)._lines)
        assert "overlap, not influence: who sat on the mat" in plain
        assert "overlap, not influence: on the mat" in plain

    drive(opened(run, 6), task)


def test_a_line_with_one_style_keeps_it(finished: RunFolder) -> None:
    async def task(pilot):
        await shows(pilot, "most helpful documents")
        strips = pilot.app.screen._compositor.render_strips()
        titles = [s for strip in strips for s in strip if "most helpful doc" in s.text]
        assert titles and titles[0].style.bold

    drive(opened(finished, 6), task)


def luminance(colour: Color) -> float:
    parts = [part / 255 for part in colour.rgb]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def weak_colours(app: MagicApp) -> set[str]:
    """Colours on screen whose contrast is under 3, which is the least for what is large or bold."""
    faint = set()
    for strip in app.screen._compositor.render_strips():
        for segment in strip:
            style = segment.style
            if style is None or style.color is None or style.dim or style.reverse:
                continue
            if not segment.text.strip():
                continue
            below = WHITE if style.bgcolor is None else Color.from_rich_color(style.bgcolor)
            levels = [luminance(c) for c in (Color.from_rich_color(style.color), below)]
            if (max(levels) + 0.05) / (min(levels) + 0.05) < 3:
                faint.add(f"{style}: {segment.text}")
    return faint


def test_colours_can_be_read_on_a_light_background(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def task(pilot):
        app = pilot.app
        await shows(pilot, "strongest tokens")
        app.action_light()
        await pilot.pause()
        for key, text in (
            ("4", "strongest token"),
            ("5", "scale"),
            ("6", "most helpful"),
            ("7", "far"),
        ):
            await pilot.press(key)
            await shows(pilot, text)
            assert not weak_colours(app), key
        monkeypatch.setattr(line_filters, "darkened", lambda style: style)
        await pilot.press("5", "Q")
        await shows(pilot, "query 1 · 2 in all")
        assert weak_colours(app)

    drive(opened(finished, document=7), task)


@pytest.mark.slow
def test_a_document_of_200_000_tokens(tmp_path: Path) -> None:
    run = long_run(tmp_path)

    async def task(pilot):
        app = pilot.app
        await shows(pilot, "200,000 tokens")
        text = app.screen.query_one(TokenText)
        await pilot.press("pagedown", "j", "l", "n")
        assert 0 < text.cursor < 20_000
        await pilot.press("G")
        assert text.cursor == len(text._texts) - 1
        assert text.scroll_offset.y + text.size.height >= text.text_height
        await shows(pilot, "token 199999")
        await pilot.press("k", "g")
        assert text.cursor == 0
        for key, text in (("4", "200,000 tokens"), ("6", "most helpful documents")):
            await pilot.press(key)
            await shows(pilot, text)

    drive(opened(run), task)


def long_run(folder: Path) -> RunFolder:
    """A run whose only document is of 200,000 tokens, in rows of 500."""
    tokens, rows = 500, 400
    run = FakeRun(texts=["one"]).write(folder)
    rng = np.random.default_rng(0)
    shutil.rmtree(run.rows_store)
    shutil.rmtree(run.attributions)
    ids = rng.integers(5, 250, (rows, tokens)).astype(np.int32)
    owners, targets = np.zeros((rows, tokens), np.int64), np.ones((rows, tokens), bool)
    steps = np.arange(rows, dtype=np.int32)[:, None]
    write_rows(run.rows_store, ids, owners, targets, steps)
    path = run.attributions / "a0001"
    path.mkdir(parents=True)
    writer = ScoreWriter(path, ScoreShape(2, rows, tokens, 1, rows, "float32", "token"))
    scores = rng.normal(size=(rows, tokens)) * 1e-4
    for query in range(2):
        writer.write(query, scores, np.array([scores.sum()]), np.ones(rows))
    FakeRun()._write_queries(path)
    writer.complete(run.id, run.record()["config_hash"], {})
    return run
