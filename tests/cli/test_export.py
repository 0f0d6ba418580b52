import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.records.score_store import ScoreReader
from magic_tui.client.export_csv import text_cell
from tests.cli.conftest import Magic
from tests.cli.fake_run import FakeRun


def test_csv_holds_every_score_and_no_formula(runs: Path, magic: Magic, tmp_path: Path) -> None:
    texts = ["=cmd()", "+1", "-1", "@x", 'plain, with "quotes"\nand a line', "\x1b[31m"]
    run = FakeRun(texts=texts).write(runs)
    result = magic("export", "--format", "csv", "--out", tmp_path / "out")
    assert result.stdout.replace("\n", "") == str(tmp_path / "out" / "documents.csv")
    rows = list(csv.reader((tmp_path / "out" / "documents.csv").open(encoding="utf-8", newline="")))
    assert rows[0] == ["id", "score_0", "score_1", "snippet"]
    reader = ScoreReader(run.attributions / "a0001")
    for query in range(2):
        stored = reader.document_scores(query).astype(float).tolist()
        assert [float(row[1 + query]) for row in rows[1:]] == pytest.approx(stored, rel=1e-7)
    assert [row[3] for row in rows[1:]] == [
        "'=cmd()", "'+1", "'-1", "'@x", "plain, with \"quotes\" and a line", "␛[31m",
    ]  # fmt: skip


def test_only_texts_that_begin_like_formulas_are_changed() -> None:
    assert text_cell("a=1") == "a=1" and text_cell("") == "" and text_cell("=1") == "'=1"


def test_pt_is_written_by_the_worker(
    runs: Path, magic: Magic, fake_worker: Callable[[str], None]
) -> None:
    run = FakeRun().write(runs)
    facts = json.loads(magic("export", "--json").stdout)
    assert facts["format"] == "pt" and facts["attribution"] == "a0001"
    assert [Path(file).name for file in facts["files"]] == ["scores.pt"]
    assert Path(facts["path"]).name == f"{run.id}-a0001"


def test_a_folder_with_something_in_it_is_left_alone(
    runs: Path, magic: Magic, tmp_path: Path
) -> None:
    FakeRun().write(runs)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "documents.csv").write_text("mine")
    result = magic("export", "--format", "csv", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "not an empty folder" in result.stderr
    assert (tmp_path / "out" / "documents.csv").read_text() == "mine"
