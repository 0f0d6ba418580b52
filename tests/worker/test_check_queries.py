"""Queries are checked before a job is submitted, without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.attribution.query_texts import check_config, check_queries
from engine.runs.config import RunConfig
from engine.runs.errors import UsageError
from engine.runs.request import AttributionRequest
from engine.runs.run_folder import RunFolder
from tests.cli.fake_run import FakeRun

LENGTH = {"data": {"path": "x.jsonl", "sequence_length": 16}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of texts, its rows 16 tokens long."""
    return FakeRun(config=LENGTH).write(tmp_path_factory.mktemp("runs"))


def check(run: RunFolder, **request: Any) -> dict[str, Any]:
    return check_queries(run, AttributionRequest.model_validate(request))


def test_valid_queries_pass(run: RunFolder, tmp_path: Path) -> None:
    assert check(run, texts=("who sat on the mat?", "wörld peace " * 50))["queries"] == 2
    assert check(run, texts=("peace",), prompts=("the cat sat ",))["queries"] == 1
    file = tmp_path / "q.jsonl"
    file.write_text('{"text": "who sat?", "n": 1}\n{"text": "the cat", "n": 2}\n')
    assert check(run, queries={"path": str(file)})["queries"] == 2
    # What is not on this machine is for the job to fetch.
    assert check(run, queries={"path": "some/dataset"})["queries"] is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"queries": {"path": "/nowhere/typo.jsonl"}}, "no file or folder at '/nowhere/typo"),
        ({"queries": {"path": "FILE", "text_column": "body"}}, "no column 'body'"),
        ({"queries": {"path": "FILE", "split": "test"}}, "does not match the data set"),
        ({"queries": {"path": "EMPTY"}}, "empty|predict"),
        ({"texts": ("peace",), "prompts": ("the cat sat on a mat " * 9,)}, "prompt"),
        ({"texts": ("a",)}, "--text"),
    ],
)
def test_invalid_queries_are_refused(
    run: RunFolder, tmp_path: Path, body: dict[str, Any], words: str
) -> None:
    (tmp_path / "FILE.jsonl").write_text('{"text": "who sat?"}\n')
    (tmp_path / "EMPTY.jsonl").write_text('{"text": ""}\n')
    if body.get("queries", {}).get("path") in ("FILE", "EMPTY"):
        path = tmp_path / f"{body['queries']['path']}.jsonl"
        body = {"queries": body["queries"] | {"path": str(path)}}
    with pytest.raises(UsageError, match=words):
        check(run, **body)


def test_text_queries_of_an_image_run_are_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "20250102T030405-abc123")
    run.path.mkdir()
    values = {
        "task": "image_classification", "name": "n", "model": {"path": "cnn"},
        "data": {"path": "d"},
    }  # fmt: skip
    run.write_config(RunConfig.model_validate(values), run.id, 1.0)
    with pytest.raises(UsageError, match="has no texts: use --queries DATA and --split"):
        check(run, texts=("who?",))
    with pytest.raises(UsageError, match="no file or folder at"):
        check(run, queries={"path": str(tmp_path / "typo.parquet")})


def test_data_of_an_unprepared_run_is_checked(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "20250102T030405-abc123")
    run.path.mkdir()
    values = {"name": "n", "model": {"path": "m"}, "data": {"path": "d"}}
    run.write_config(RunConfig.model_validate(values), run.id, 1.0)
    assert check(run, texts=("a",))["queries"] == 1
    with pytest.raises(UsageError, match="no file or folder at"):
        check(run, queries={"path": str(tmp_path / "typo.jsonl")})


def test_check_loads_no_torch(run: RunFolder, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"texts": ["who sat on the mat? " * 4_000]}))
    code = (
        "import sys; from engine.worker.main import main; "
        f"code = main(['check', '--run', {str(run.path)!r}, '--request-file', {str(request)!r}]); "
        "print(code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    answer, state = done.stdout.splitlines()
    assert json.loads(answer)["queries"] == 1 and state == "0 False False"


def test_stored_tokenizer_equals_transformers(run: RunFolder) -> None:
    from transformers import PreTrainedTokenizerFast

    from engine.attribution.query_texts import _StoredTokenizer, typed_documents
    from engine.data.tokens import tokenize

    stored: Any = _StoredTokenizer(run.tokenizer_file)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(run.tokenizer_file))
    request = AttributionRequest(texts=("wörld 🎉 peace", "tea"), prompts=("the cat ", "rain "))
    for one, other in zip(
        tokenize(typed_documents(request), stored, 16).tokens,
        tokenize(typed_documents(request), theirs, 16).tokens,
        strict=True,
    ):
        assert np.array_equal(one.input_ids, other.input_ids)
        assert np.array_equal(one.predicted, other.predicted)


@pytest.mark.parametrize(
    ("queries", "words"),
    [
        ({"path": "/nowhere/typo.jsonl"}, "queries.path: no file or folder at"),
        ({"path": "FILE", "text_column": "body"}, "queries.text_column: no column 'body'"),
        (
            {"path": "FILE", "reduction": "mean", "contrast": {"path": "/nowhere/c.jsonl"}},
            "queries.contrast.path: no file or folder at",
        ),
    ],
)
def test_config_with_invalid_queries_is_refused(
    tmp_path: Path, queries: dict[str, Any], words: str
) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text('{"text": "who sat?"}\n')
    values = {
        "model": {"path": "some/model"}, "data": {"path": "some/data"},
        "queries": {n: str(file) if v == "FILE" else v for n, v in queries.items()},
    }  # fmt: skip
    with pytest.raises(UsageError, match=words):
        check_config(RunConfig.model_validate(values))
