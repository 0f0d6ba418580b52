"""The data under Influences, Document and Why: paged texts, rankings, layouts, shared words."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.runs.errors import RunError, UsageError
from engine.runs.lru import LRUCache
from engine.runs.run_folder import RunFolder
from engine.runs.tables import RowTable
from engine.scores.attribution import open_attribution
from engine.scores.document import read_document
from engine.scores.ranking import rank_documents, score_correlation
from engine.scores.texts import DocumentTexts, document_texts
from magic_tui.explore.score_browser import ScoreBrowser, browse
from magic_tui.explore.why import shared_runs
from magic_tui.text.tokens import Shade, level_of, levels_of, wrap_shades
from magic_tui.widgets.token_text import Layout
from tests.cli.fake_run import FakeRun, sample_texts


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Enough documents for several row groups."""
    texts = [f"{i} {text}" for i, text in enumerate(sample_texts(500))]
    return FakeRun(texts=texts).write(tmp_path_factory.mktemp("many"))


def test_texts_are_read_by_row_groups(many: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(
        pq.ParquetFile(many.documents_file).read(), many.path / "grouped", row_group_size=64
    )
    texts = DocumentTexts(many.path / "grouped")
    read: list[int] = []
    whole = texts._file.read_row_group
    monkeypatch.setattr(
        texts, "_file", type("F", (), {"read_row_group": lambda s, i, *a, **k: (
            read.append(i), whole(i, *a, **k))[1]})()
    )  # fmt: skip
    wanted = [499, 3, 130, 4]
    assert [t.split()[0] for t in texts.texts(wanted)] == ["499", "3", "130", "4"]
    assert sorted(read) == [0, 2, 7]
    assert texts.texts([5]) and sorted(read) == [0, 2, 7]
    assert len(texts) == 500


def test_documents_are_written_in_row_groups_of_some_size(tmp_path: Path) -> None:
    texts = [f"{i} " + "word " * 2000 for i in range(300)]
    run = FakeRun(texts=texts).write(tmp_path)
    assert pq.ParquetFile(run.documents_file).num_row_groups == 5
    assert document_texts(run, [299, 0])[0].startswith("299 ")


def test_search_finds_whatever_the_case(many: RunFolder) -> None:
    texts = DocumentTexts(many.documents_file)
    every = document_texts(many, range(500))
    result = np.concatenate([hits for hits, _ in texts.search("WÖRLD peace")])
    assert result.tolist() == [i for i, text in enumerate(every) if "wörld peace" in text]
    assert len(result)
    looked = [looked for _, looked in texts.search("x")]
    assert looked[-1] == 500


def test_a_damaged_table_is_reported(tmp_path: Path) -> None:
    run = FakeRun().write(tmp_path)
    data = bytearray(run.documents_file.read_bytes())
    column = pq.ParquetFile(run.documents_file).metadata.row_group(0).column(1)
    assert column.path_in_schema == "text"
    start = column.dictionary_page_offset or column.data_page_offset
    end = start + column.total_compressed_size
    data[end - 20 : end - 10] = bytes(byte ^ 0xFF for byte in data[end - 20 : end - 10])
    run.documents_file.write_bytes(bytes(data))
    with pytest.raises(RunError, match=r"documents\.parquet is missing or damaged"):
        DocumentTexts(run.documents_file).texts([0])
    run.documents_file.unlink()
    with pytest.raises(RunError, match="missing"):
        DocumentTexts(run.documents_file)


def test_ranking() -> None:
    values = np.array([0.5, -3.0, 0.0, 2.0, -1.0])
    both = rank_documents(values)
    assert both.order.tolist() == [1, 3, 4, 0, 2]
    assert rank_documents(values, "helpful").order.tolist() == [1, 4]
    assert rank_documents(values, "harmful").order.tolist() == [3, 0]
    assert both.cumulative_share(2) == pytest.approx(5 / 6.5)
    assert both.cumulative_share(99) == pytest.approx(1.0)
    assert both.sign_counts == (2, 2)
    assert [both.strength(d) for d in (1, 3, 4, 0, 2)] == [1, 2, 3, 4, 5]
    only = both.restricted_to(np.array([0, 4]))
    assert only.order.tolist() == [4, 0]
    assert only.index(0) == 1 and only.index(3) is None
    histogram = both.histogram(6)
    assert histogram.counts.sum() == 5 and len(histogram.counts) == 5
    assert rank_documents(np.zeros(3)).cumulative_share(2) == 0.0
    assert score_correlation(values, -values) == pytest.approx(-1.0)
    assert score_correlation(values, np.zeros(5)) is None


def test_figures_made_from_tokens(finished: RunFolder) -> None:
    explored = browse(finished)
    tokens = np.where(
        RowTable(finished.rows_store).targets(), explored.attribution.scores.token_scores(0), 0
    )
    targets = RowTable(finished.rows_store).targets().sum(1)
    assert explored.values(0, "mean") == pytest.approx(tokens.sum(1) / targets, rel=1e-5)
    extremes = tokens[np.arange(len(tokens)), np.abs(tokens).argmax(1)]
    assert explored.values(0, "strongest") == pytest.approx(extremes)


def test_figures_that_would_read_everything_are_refused(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magic_tui.explore.score_browser.RANKABLE_TOKENS", 10)
    explored = ScoreBrowser(open_attribution(finished))
    with pytest.raises(UsageError, match="would read all"):
        explored.values(0, "strongest")
    assert len(explored.values(0)) == 23


@pytest.mark.parametrize("document", [0, 1, 250, 498, 499])
def test_a_document_is_found_by_halving(many: RunFolder, document: int) -> None:
    tokens = read_document(many, document)
    assert set(tokens.rows.tolist()) == {document}
    with pytest.raises(UsageError, match="no row"):
        read_document(many, 500)


def test_packed_documents_are_found(tmp_path: Path) -> None:
    from engine.runs.tables import write_rows

    run = RunFolder(tmp_path)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, 300)
    lengths[7] = 2000
    owners = np.repeat(np.arange(300), lengths)
    owners = owners[~np.isin(owners, (20, 21))]
    cut = np.full(-(-len(owners) // 16) * 16, -1)
    cut[: len(owners)] = owners
    cut = cut.reshape(-1, 16)
    steps = np.zeros((len(cut), 1), np.int32)
    write_rows(run.rows_store, cut.astype(np.int32), cut, cut >= 0, steps)
    for document in (0, 7, 8, 150, 299):
        tokens = read_document(run, document)
        expected = np.nonzero(cut == document)
        assert tokens.rows.tolist() == expected[0].tolist()
        assert tokens.positions.tolist() == expected[1].tolist()
    with pytest.raises(UsageError):
        read_document(run, 20)


def test_recent_forgets_what_was_used_longest_ago() -> None:
    recent: LRUCache[int, str] = LRUCache(2)
    created: list[int] = []
    for key in (1, 2, 1, 3, 1, 2):
        recent.get_or_create(key, lambda key=key: created.append(key) or str(key))  # type: ignore[misc]
    assert created == [1, 2, 3, 2]
    assert len(recent) == 2


@pytest.mark.parametrize("width", [7, 20, 80])
def test_a_layout_wraps_as_the_command_line_does(width: int) -> None:
    words = ["The ", "qu", "ick\n", "", "brown 語語 ", "\x1b[2J", "fox" * 9, "\n\n", "end"]
    layout = Layout(words, width)
    layout.reach(0)
    assert len(layout.lines) == 1
    layout.reach(1000)
    assert layout.complete
    lines = ["".join(s.text for s in line) for line in layout.lines]
    plain = wrap_shades([Shade(text) for text in words], width)
    assert lines == ["".join(s.text for s in line) for line in plain]
    assert "\x1b" not in "".join(lines)
    for index in (0, 1, 4, 8):
        line = layout.line_of(index)
        assert layout.nearest(line, layout.cell_of(index)) == index


def test_a_long_document_is_laid_out_as_far_as_it_is_looked_at() -> None:
    layout = Layout(["word "] * 20_000, 50)
    layout.reach(30)
    assert len(layout.lines) == 31 and not layout.complete
    assert layout.line_of(1000) == 100 and len(layout.lines) < 110
    assert layout.line_of(19_999) == 1_999
    # A text without any space is one word, which would have to be read to its end.
    glued = Layout(["word"] * 20_000, 50)
    glued.reach(30)
    assert len(glued.lines) == 31


def test_levels_of_many_are_those_of_each() -> None:
    scores = np.random.default_rng(0).standard_t(2, 500)
    scores[:3] = 0.0, np.nan, -np.abs(scores).max()
    for strongest in (float(np.nanmax(np.abs(scores))), 1e-3, 0.0):
        result = levels_of(scores, strongest)
        assert result.tolist() == [level_of(float(score), strongest) for score in scores]


def test_recent_counts_what_its_values_weigh() -> None:
    recent: LRUCache[int, str] = LRUCache(5, len)
    for key, value in ((1, "aa"), (2, "bb"), (1, "cc"), (3, "dd")):
        recent.put(key, value)
    assert [recent.get(key) for key in (1, 2, 3)] == ["cc", None, "dd"]
    recent.put(4, "longer than all")
    assert [recent.get(key) for key in (1, 3, 4)] == [None, None, "longer than all"]


def test_shared_runs() -> None:
    query = "The cat sat on the mat, and then it slept."
    text = "Yesterday the CAT sat on\nthe mat! and later: and then it slept. on the mat"
    assert shared_runs(query, text) == ["the CAT sat on\nthe mat! and", "and then it slept"]
    assert shared_runs(query, "nothing of the kind") == []
    assert shared_runs("", text) == []
