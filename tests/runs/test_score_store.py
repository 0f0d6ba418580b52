from pathlib import Path

import numpy as np
import pytest
import zarr

from engine.runs.checksummed import read_record, write_record
from engine.runs.errors import RunError, UsageError
from engine.runs.score_store import (
    ScoreReader,
    ScoreShape,
    ScoreWriter,
    find_attribution,
    list_attributions,
    next_attribution_id,
)

QUERIES, ROWS, TOKENS, DOCUMENTS, STEPS = 2, 5, 3, 4, 6


def written(folder: Path, granularity: str = "token", complete: bool = True) -> np.ndarray:
    folder.mkdir(parents=True)
    shape = ScoreShape(QUERIES, ROWS, TOKENS, DOCUMENTS, STEPS, "float64", granularity)
    writer = ScoreWriter(folder, shape)
    scores = np.random.default_rng(0).normal(size=(QUERIES, ROWS, TOKENS))
    for query in range(QUERIES):
        writer.write(query, scores[query], np.array([0.5, -2.0, 3.0, -0.1]), np.arange(6.0))
    if complete:
        writer.complete("run-1", "hash-1", {"made": "now"})
    return scores


def test_scores_come_back_with_their_order(tmp_path: Path) -> None:
    scores = written(tmp_path / "a0001")
    reader = ScoreReader(tmp_path / "a0001")
    assert reader.queries == QUERIES and reader.has_tokens
    assert np.array_equal(reader.token_scores(1, slice(2, 4)), scores[1, 2:4])
    assert reader.document_scores(0).tolist() == [0.5, -2.0, 3.0, -0.1]
    assert reader.step_scores(0).tolist() == list(range(6))
    assert reader.top_documents(0).tolist() == [1, 3, 0, 2]
    assert reader.top_documents(0, harmful=True).tolist() == [2, 0, 3, 1]
    assert reader.record is not None and reader.record["made"] == "now"


def test_the_store_names_its_run_and_its_sign(tmp_path: Path) -> None:
    written(tmp_path / "a0001")
    attributes = zarr.open_group(tmp_path / "a0001" / "scores.zarr", mode="r").attrs
    assert (attributes["run_id"], attributes["config_hash"]) == ("run-1", "hash-1")
    assert "negative is helpful" in str(attributes["sign_convention"])


def test_an_incomplete_attribution_is_refused_and_not_listed(tmp_path: Path) -> None:
    written(tmp_path / "a0001", complete=False)
    with pytest.raises(UsageError, match="is not complete"):
        ScoreReader(tmp_path / "a0001")
    assert list_attributions(tmp_path) == []
    assert next_attribution_id(tmp_path) == "a0002"


def test_no_token_scores_where_only_document_scores_are_stored(tmp_path: Path) -> None:
    written(tmp_path / "a0001", "document")
    reader = ScoreReader(tmp_path / "a0001")
    assert not reader.has_tokens
    with pytest.raises(UsageError, match="has no token_scores"):
        reader.token_scores(0)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is damaged"),
        ("{}", "is damaged"),
        ('{"format_version": 99, "arrays": {}}', "has format version 99"),
    ],
)
def test_a_completion_record_that_cannot_be_trusted(
    tmp_path: Path, content: str, sentence: str
) -> None:
    written(tmp_path / "a0001")
    (tmp_path / "a0001" / "complete.json").write_text(content)
    with pytest.raises(UsageError, match=sentence):
        ScoreReader(tmp_path / "a0001")


def test_an_array_of_another_shape_than_promised_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "a0001")
    path = tmp_path / "a0001" / "complete.json"
    record = read_record(path) or {}
    record["arrays"]["document_scores"]["shape"] = [QUERIES, DOCUMENTS + 1]
    write_record(path, record)
    with pytest.raises(RunError, match="differs from its completion record"):
        ScoreReader(tmp_path / "a0001").document_scores(0)


def test_a_missing_chunk_of_scores_is_never_zeros(tmp_path: Path) -> None:
    written(tmp_path / "a0001")
    for path in (tmp_path / "a0001" / "scores.zarr" / "token_scores" / "c" / "1").rglob("*"):
        if path.is_file():
            path.unlink()
    reader = ScoreReader(tmp_path / "a0001")
    assert reader.token_scores(0).shape == (ROWS, TOKENS)
    with pytest.raises(RunError, match="token_scores lacks values"):
        reader.token_scores(1)


def test_finding_attributions(tmp_path: Path) -> None:
    attributions = tmp_path / "run-1" / "attributions"
    with pytest.raises(UsageError, match="run-1 has no complete attribution"):
        find_attribution(attributions)
    assert next_attribution_id(attributions) == "a0001"
    written(attributions / "a0001")
    written(attributions / "a0002")
    assert find_attribution(attributions).name == "a0002"
    assert find_attribution(attributions, "a0001").name == "a0001"
    with pytest.raises(UsageError, match="there are a0001, a0002"):
        find_attribution(attributions, "a0003")
