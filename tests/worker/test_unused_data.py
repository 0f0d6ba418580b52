"""Unused documents are counted and reported, and change no score of the others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreReader, read_completion
from engine.runs.tables import read_table
from tests.crash.tiny import QUERIES, SENTENCES

Outcome = dict[str, Any]
LENGTH = 8


def lines(texts: list[str]) -> str:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


@pytest.fixture
def gaps(config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The config with documents that hold nothing to predict, and with long ones."""
    texts = ["", *SENTENCES[:2], " ", *SENTENCES[2:], "a", ""]
    (tmp_path / "train.jsonl").write_text(lines(texts))
    (tmp_path / "clean.jsonl").write_text(lines(list(SENTENCES)))
    config["data"]["sequence_length"] = LENGTH
    return config


def test_run_reports_unused_and_cut_documents(
    gaps: dict[str, Any], start: Callable[..., Outcome], runs: Path, tmp_path: Path
) -> None:
    assert start(gaps)["ok"]
    run = RunFolder(runs / "r1")
    warnings = [e["message"] for e in run.events() if e["event"] == "warning"]
    left_out, cut, queries = [w for w in warnings if w.startswith(("data:", "queries:"))]
    assert "2 empty, 1 blank, 1 of a single token (lines 1, 4, " in left_out
    assert f"are longer than data.sequence_length {LENGTH}" in cut
    assert queries.startswith("queries: ")
    facts = run.prepared()["data"]
    assert facts["left_out"] == {"empty": 2, "blank": 1, "of a single token": 1}
    documents = read_table(run.documents_file).to_pydict()
    assert documents["id"] == list(range(len(SENTENCES)))
    count = len(SENTENCES)
    assert documents["source_row"] == [1, 2, *range(4, count + 2)]
    assert sum(documents["cut_tokens"]) == facts["cut_tokens"] > 0
    record = read_completion(run.attributions / "a0001") or {}
    table = read_table(run.attributions / "a0001" / "queries.parquet").to_pydict()
    assert record["cut"]["tokens"] == sum(table["cut_tokens"]) > 0
    assert table["text"] == list(QUERIES)

    # The same scores as of a run that was given the others alone.
    gaps["data"]["path"] = str(tmp_path / "clean.jsonl")
    assert start(gaps, "r2")["ok"]
    ours, clean = (ScoreReader(runs / name / "attributions" / "a0001") for name in ("r1", "r2"))
    assert np.array_equal(ours.document_scores(0), clean.document_scores(0))


def test_plan_reports_unused_and_cut_documents(
    gaps: dict[str, Any], worker: Callable[..., Outcome], tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(gaps))
    plan = worker("plan", "--config", file, "--runs", tmp_path)
    assert plan["documents"] == len(SENTENCES)
    assert sum(plan["data"]["left_out"].values()) == 4 and plan["data"]["cut_tokens"] > 0
    assert plan["queries_cut"]["tokens"] > 0
    assert sum(w.startswith(("data:", "queries:")) for w in plan["warnings"]) == 3
