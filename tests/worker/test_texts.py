"""Texts of query data for the list of queries: only the beginning of a long file."""

import json
from pathlib import Path

import pytest

from engine.attribution import query_texts as texts
from engine.attribution.query_texts import source_texts
from engine.runs.config import SourceConfig
from engine.runs.errors import UsageError


@pytest.fixture(autouse=True)
def _every_file_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_LONG_BYTES", 0)


def lines(count: int) -> str:
    """Lines of JSON with blank ones between them."""
    return "".join(json.dumps({"text": f"say {n}", "id": n}) + "\n\n" for n in range(count))


def test_beginning_and_length_of_a_long_file(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    # What is behind the beginning is not read as JSON.
    file.write_text("\ufeff" + lines(7) + "not json\n", encoding="utf-8")
    result = source_texts(SourceConfig(path=str(file)), 3)
    assert result == {"documents": 8, "prompts": None, "texts": ["say 0", "say 1", "say 2"]}


def test_prompts_and_plain_lines(tmp_path: Path) -> None:
    file = tmp_path / "q.txt"
    file.write_text("one\n\ntwo\nthree")
    assert source_texts(SourceConfig(path=str(file)), 2)["documents"] == 3
    pairs = tmp_path / "q.jsonl"
    pairs.write_text(json.dumps({"p": "a", "c": "b"}) + "\n")
    source = SourceConfig(path=str(pairs), prompt_column="p", completion_column="c")
    assert source_texts(source, 9) == {"documents": 1, "prompts": ["a"], "texts": ["b"]}


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_over_one_line_or_many(tmp_path: Path, indent: int | None) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(json.dumps([{"text": "a"}, {"text": "b"}], indent=indent))
    assert source_texts(SourceConfig(path=str(file)), 5)["documents"] == 2


def test_a_share_of_a_file_is_read_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(lines(10))
    assert source_texts(SourceConfig(path=str(file), split="train[:4]"), 3)["documents"] == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 rows"),
        (b"not json\n", "q.jsonl' cannot be read: line 1 is not JSON"),
        (b"\x7fELF\xff\n", "q.jsonl' cannot be read"),
        (b'{"x": 1}\n', "no column 'text'"),
    ],
)
def test_faults_name_the_original_file(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "q.jsonl"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        source_texts(SourceConfig(path=str(file)), 3)
