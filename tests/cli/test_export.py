import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.runs.score_store import ScoreReader
from magic_tui.explore.export import text_cell
from tests.cli.conftest import Magic
from tests.cli.fake_run import FakeRun


def test_csv_has_every_score_and_no_formula(runs: Path, magic: Magic, tmp_path: Path) -> None:
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
    assert Path(facts["path"]).name == f"{run.id}-a0001-pt"


def test_a_folder_that_is_not_empty_is_an_error(runs: Path, magic: Magic, tmp_path: Path) -> None:
    FakeRun().write(runs)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "documents.csv").write_text("mine")
    result = magic("export", "--format", "csv", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "not an empty folder" in result.stderr
    assert (tmp_path / "out" / "documents.csv").read_text() == "mine"


def test_formats_do_not_collide(
    runs: Path,
    magic: Magic,
    fake_worker: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = FakeRun().write(runs)
    monkeypatch.chdir(tmp_path)
    for format in ("pt", "csv"):
        assert magic("export", "--format", format).exit_code == 0
    assert sorted(path.name for path in tmp_path.glob("2025*")) == [
        f"{run.id}-a0001-csv", f"{run.id}-a0001-pt",
    ]  # fmt: skip
    again = magic("export", "--format", "csv")
    assert again.exit_code == 2 and "not an empty folder" in again.stderr


def test_a_full_disk_leaves_nothing(
    runs: Path, magic: Magic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeRun().write(runs)

    def full(text: str) -> str:
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(text.encode())
        return text

    monkeypatch.setattr("magic_tui.explore.export.text_cell", full)
    result = magic("export", "--format", "csv", "--out", tmp_path / "out" / "x")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1 and "disk full while writing" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_help_explains_document_sums(magic: Magic) -> None:
    text = " ".join(magic("export", "--help").stdout.split())
    assert "per_doc.scatter_add_(0, doc_ids.flatten(), scores.flatten())" in text
