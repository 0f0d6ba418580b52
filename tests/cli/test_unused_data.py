"""Documents and queries are printed up to where they were cut, with a note."""

import json
from pathlib import Path

import pytest

from engine.runs.run_folder import RunFolder
from engine.scores.attribution import open_attribution
from engine.scores.run_records import attribution_list, unused_data
from engine.scores.texts import CUT_MARK, DocumentTexts, as_read
from magic_tui.queries.candidates import candidate_of
from magic_tui.runs.status_lines import run_detail
from tests.cli.conftest import Magic
from tests.cli.fake_run import FakeRun

FACTS = {
    "left_out": {"empty": 2, "of a single token": 1}, 
    "left_out_first": "lines 2, 4 and 9 of x.jsonl",
    "cut": 1, "cut_tokens": 1300,
}  # fmt: skip


@pytest.fixture
def cut(runs: Path) -> RunFolder:
    """A run with one long document and one long query."""
    texts = [f"the cat sat {number} secret" for number in range(23)]
    lost = [0] * 23
    lost[5] = 1300
    ends: list[int | None] = [None] * 23
    ends[5] = len("the cat sat")
    run = FakeRun(
        texts=texts,
        cut={"cut_tokens": lost, "text_end": ends},
        queries=["who sat on the mat?", "wörld peace"],
        query_columns={"cut_tokens": [7, 0], "text_end": [len("who sat"), None]},
    ).write(runs)
    run.write_prepared({"data": FACTS})
    return run


def test_texts_end_where_the_model_stops_reading(cut: RunFolder, magic: Magic) -> None:
    texts = DocumentTexts(cut.documents_file)
    assert texts.texts([5, 4]) == ["the cat sat" + CUT_MARK, "the cat sat 4 secret"]
    assert [texts.cut_tokens(document) for document in (5, 4)] == [1300, 0]
    matches = [int(d) for documents, _ in texts.search("SECRET") for d in documents]
    assert matches == [d for d in range(23) if d != 5]
    top = json.loads(magic("top", "--json", "-k", 23).stdout)
    snippets = {d["document"]: d["snippet"] for d in top["helpful"] + top["harmful"]}
    assert snippets[5] == "the cat sat" + CUT_MARK
    assert (top["text"], top["cut_tokens"]) == ("who sat" + CUT_MARK, 7)
    page = magic("top").stdout
    assert "the last 7 tokens are not measured" in page and "mat?" not in page
    assert "not measured" not in magic("top", "-q", 1).stdout


def test_a_document_says_how_much_is_cut_off(cut: RunFolder, magic: Magic) -> None:
    assert "(1,300 more cut off)" in magic("show", 5).stdout
    assert CUT_MARK.strip() in magic("show", 5).stdout
    assert json.loads(magic("show", 5, "--json").stdout)["cut_tokens"] == 1300
    assert "cut off" not in magic("show", 4).stdout


def test_a_cut_query_is_submitted_again_as_a_whole(cut: RunFolder) -> None:
    (document,) = open_attribution(cut).query(0).documents
    assert document.text == "who sat" + CUT_MARK
    again = candidate_of(document)
    assert (again.text, again.cut_text) == ("who sat on the mat?", document.text)


def test_status_says_what_of_the_data_is_not_used(cut: RunFolder) -> None:
    view = {"path": str(cut.path), "jobs": []}
    listed = attribution_list(view)
    assert listed[0]["cut"] == {"queries": 1, "tokens": 7}
    assert listed[0]["texts"] == ["who sat" + CUT_MARK, "wörld peace"]
    assert unused_data(cut.path) == FACTS
    run = {
        **dict.fromkeys(("phase", "job", "reason", "memory", "created"), None),
        **dict.fromkeys(("trajectory_bytes", "scores_bytes", "attributions", "steps"), 0),
        "id": "r", "name": "n", "state": "succeeded", "model": "m", "trust_remote_code": False,
        "total_steps": 1, "documents": 20, "path": "p", "jobs": [], "data": FACTS,
        "attribution_list": listed,
    }  # fmt: skip
    text = " ".join(line.plain for line in run_detail(run, 300))
    assert "20 · left out: 2 empty, 1 of a single token (lines 2, 4 and 9 of x.jsonl)" in text
    assert "1 cut, 1,300 tokens lost" in text and "1 cut, 7 tokens" in text


def test_a_prompt_and_its_completion_are_cut_as_one() -> None:
    assert as_read(["ask", "answer"], None) == ["ask", "answer"]
    assert as_read(["ask", "answer"], 5) == ["ask", "an" + CUT_MARK]
    assert as_read(["ask", "answer"], 2) == ["as", CUT_MARK]
