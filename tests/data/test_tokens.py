"""Documents become the tokens that the tokenizer gives, with the right ones to predict."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from engine.data.sources import Documents, read_documents
from engine.data.tokens import Fault, tokenize
from engine.runs.config import SourceConfig
from engine.runs.errors import UsageError

Pieces = Callable[[PreTrainedTokenizerBase, list[int]], list[bytes]]


def texts(*values: str | None) -> Documents:
    return Documents(
        pa.table({"text": pa.array(values, pa.string())}), ("text",), np.arange(len(values)) + 100
    )


def pairs(*values: tuple[str | None, str | None]) -> Documents:
    prompts, completions = zip(*values, strict=True)
    table = pa.table({"prompt": prompts, "completion": completions})
    return Documents(table, ("prompt", "completion"), np.arange(len(values)) + 100)


def test_text_is_tokenised_as_by_default_and_every_successor_is_a_target(
    framing_tokenizer: PreTrainedTokenizerFast,
) -> None:
    values = ["the cat sat on the mat", "Zürich 😀\n\n", "a"]
    for value, document in zip(
        values, tokenize(texts(*values), framing_tokenizer, 512).tokens, strict=True
    ):
        assert document.input_ids.tolist() == framing_tokenizer(value)["input_ids"]
        assert document.input_ids.dtype == np.int32
        assert document.targets.tolist() == [True] * (len(document) - 1) + [False]


def test_documents_are_cut_and_the_last_kept_token_is_no_target(
    plain_tokenizer: PreTrainedTokenizerFast,
) -> None:
    value = "what is the capital of France? " * 3
    whole = plain_tokenizer(value)["input_ids"]
    (cut,) = tokenize(texts(value), plain_tokenizer, 5).tokens
    assert cut.input_ids.tolist() == whole[:5]
    assert cut.targets.tolist() == [True] * 4 + [False]
    (uncut,) = tokenize(texts(value), plain_tokenizer, None).tokens
    assert uncut.input_ids.tolist() == whole


def test_more_documents_than_a_batch_keep_their_order(
    plain_tokenizer: PreTrainedTokenizerFast,
) -> None:
    values = [f"cat {number}" for number in range(2345)]
    tokenized = tokenize(texts(*values), plain_tokenizer, None).tokens
    assert [plain_tokenizer.decode(one.input_ids) for one in tokenized] == values


def test_settings_that_a_tokenizer_came_with_neither_cut_nor_pad(
    plain_tokenizer: PreTrainedTokenizerFast,
) -> None:
    values = ("the cat sat on the mat and the dog", "the")
    expected = [plain_tokenizer(value)["input_ids"] for value in values]
    backend = plain_tokenizer.backend_tokenizer
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    try:
        tokenized = tokenize(texts(*values), plain_tokenizer, None).tokens
        assert [one.input_ids.tolist() for one in tokenized[:1]] == expected[:1]
        assert len(tokenized[1]) == len(expected[1])
    finally:
        backend.no_truncation()
        backend.no_padding()


def test_long_documents_cause_no_warning(
    plain_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    # Loading a model, as another test may have done, makes the library silent.
    caplog.set_level(logging.WARNING, logger="transformers")
    # A tokenizer warns once and remembers it here.
    plain_tokenizer.deprecation_warnings.clear()
    long = "the cat sat on the mat " * 20
    tokenize(texts(long), plain_tokenizer, 4)
    tokenize(pairs((long, "sat")), plain_tokenizer, None)
    assert caplog.messages == []
    plain_tokenizer(long)
    assert "longer than the specified maximum" in caplog.text


words = st.text(st.sampled_from("the catsondFrce?é😀\n"), max_size=12)


@given(prompt=words, completion=words.filter(str.strip))
@pytest.mark.parametrize("kind", ["plain_tokenizer", "framing_tokenizer"])
def test_tokens_that_reach_into_the_completion_are_predicted(
    request: pytest.FixtureRequest, pieces: Pieces, kind: str, prompt: str, completion: str
) -> None:
    tokenizer = request.getfixturevalue(kind)
    (document,) = tokenize(pairs((prompt, completion)), tokenizer, None).tokens
    ids = document.input_ids.tolist()
    assert ids == tokenizer(prompt + completion)["input_ids"]

    reached = np.cumsum([len(piece) for piece in pieces(tokenizer, ids)])
    of_completion = reached > len(prompt.encode())
    assert document.predicted.tolist() == of_completion.tolist()
    assert document.targets[:-1].tolist() == of_completion[1:].tolist()
    assert not document.targets[-1]


def test_the_end_token_after_a_completion_is_predicted_and_the_start_token_is_not(
    framing_tokenizer: PreTrainedTokenizerFast,
) -> None:
    prompt = "what is the capital of France?"
    (document,) = tokenize(pairs((prompt, " Paris")), framing_tokenizer, 512).tokens
    first = len(framing_tokenizer(prompt)["input_ids"]) - 1
    assert document.targets.tolist() == [
        first - 1 <= j < len(document) - 1 for j in range(len(document))
    ]
    assert document.input_ids[-1] == framing_tokenizer.eos_token_id
    assert document.predicted[-1]
    (empty_prompt,) = tokenize(pairs(("", "the cat")), framing_tokenizer, 512).tokens
    assert empty_prompt.predicted.tolist() == [False] + [True] * (len(empty_prompt) - 1)


def test_without_offsets_the_prompt_alone_tells_where_the_completion_begins(
    slow_tokenizer: PreTrainedTokenizerBase,
) -> None:
    assert not slow_tokenizer.is_fast
    both = tokenize(pairs(("abc", "de"), ("é", "é")), slow_tokenizer, 512).tokens
    assert both[0].input_ids.tolist() == slow_tokenizer("abcde")["input_ids"]
    assert both[0].predicted.tolist() == [False] * 3 + [True] * 3
    assert both[1].predicted.tolist() == [False] * 2 + [True] * 3


def test_without_offsets_a_token_over_the_boundary_belongs_to_the_completion(
    plain_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = pairs(("the ca", "t sat"), ("the cat", " sat"))
    assert plain_tokenizer.tokenize("the cat sat") == ["the", "Ġcat", "Ġsat"]
    expected = tokenize(documents, plain_tokenizer, 512).tokens
    monkeypatch.setattr(type(plain_tokenizer), "is_fast", False)
    without_offsets = tokenize(documents, plain_tokenizer, 512).tokens
    for ours, theirs in zip(without_offsets, expected, strict=True):
        assert ours.predicted.tolist() == theirs.predicted.tolist()
    assert without_offsets[0].predicted.tolist() == [False, True, True]
    assert without_offsets[1].predicted.tolist() == [False, False, True]


NOTHING = [
    ([""], 512, "1 empty"),
    ([""], None, "1 empty"),
    ([" \n\t"], None, "1 blank"),
    (["", " ", ""], 512, "2 empty, 1 blank"),
    ([None], 512, "1 without text"),
    (["the"], 512, "1 of a single token"),
    ([("the cat", "")], None, "1 empty"),
    ([("the cat", None)], 512, "1 without text"),
    ([(None, " sat")], 512, "1 without text"),
    ([("the cat", " \n")], 512, "1 blank"),
    ([("", "the")], 512, "1 of a single token"),
    ([("the the the", " the")], 3, "1 with a prompt that fills data.sequence_length"),
]


def documents_of(values: list[Any]) -> Documents:
    return pairs(*values) if isinstance(values[0], tuple) else texts(*values)


@pytest.mark.parametrize(("nothing", "length", "reasons"), NOTHING)
def test_documents_without_a_target_are_left_out_counted_and_refused_if_strict(
    plain_tokenizer: PreTrainedTokenizerFast, nothing: list[Any], length: int | None, reasons: str
) -> None:
    pair = isinstance(nothing[0], tuple)
    something: list[Any] = [("the", " cat"), ("the", " dog")] if pair else ["the cat", "the dog"]
    alone = tokenize(documents_of(something), plain_tokenizer, length)
    mixed = tokenize(
        documents_of([*nothing, something[0], *nothing, something[1]]), plain_tokenizer, length
    )
    assert [one.input_ids.tolist() for one in mixed.tokens] == [
        one.input_ids.tolist() for one in alone.tokens
    ]
    count, first = len(nothing), len(nothing) + 100
    assert mixed.documents.source_rows.tolist() == [first, first + count + 1]
    assert mixed.documents.texts(1) == alone.documents.texts(1)
    assert alone.warnings("data", "documents") == []
    assert sum(mixed.facts()["left_out"].values()) == 2 * count == len(mixed.faults)

    mixed.check("data", "documents", strict=False)
    (warning,) = mixed.warnings("data", "documents")
    doubled = re.sub(r"\d+", lambda number: str(2 * int(number[0])), reasons)
    holds = f"data: {2 * count} of {2 * count + 2} documents have nothing to predict: {doubled} "
    assert warning.startswith(f"{holds}(texts 101")
    for tokenized, strict in (
        (mixed, True),
        (tokenize(documents_of(nothing), plain_tokenizer, length), False),
    ):
        with pytest.raises(UsageError, match=r"nothing to predict: .*; correct or remove them"):
            tokenized.check("data", "documents", strict)


def test_an_empty_text_is_left_out_even_where_special_tokens_are_added(
    framing_tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert tokenize(texts(""), framing_tokenizer, 512).faults == {0: Fault.EMPTY}


def test_a_completion_that_the_tokenizer_drops_is_left_out() -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    backend = Tokenizer(models.WordLevel({"cat": 0, "?": 1}, unk_token="?"))
    backend.normalizer = normalizers.Replace("x", "")
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert tokenize(pairs(("cat", " x")), tokenizer, 512).faults == {0: Fault.NO_TOKEN}


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("a.jsonl", '\n{"text": ""}\n{"text": "the cat"}\n{"text": 3}', "lines 2 and 4 of a.jsonl"),
        ("a.csv", 'text,n\n"the\ncat",1\n"",2\n', "line 4 of a.csv"),
        ("a.txt", "the cat\n\nthe\n", "line 3 of a.txt"),
        ("a.json", '[{"text": "the cat"},\n\n{"text": ""}]', "row 2 of a.json"),
        ("a.jsonl", '{"text": "the cat"}' + '\n{"text": " "}' * 5, "lines 2, 3, 4, … of a.jsonl"),
    ],
)
def test_messages_name_the_lines_of_files_that_have_lines(
    plain_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, name: str, content: str, places: str
) -> None:
    (tmp_path / name).write_text(content)
    documents = read_documents(SourceConfig(path=str(tmp_path / name)), "data")
    (warning,) = tokenize(documents, plain_tokenizer, 512).warnings("data", "documents")
    assert f"({places})" in warning


@pytest.mark.parametrize("kind", ["plain_tokenizer", "framing_tokenizer", "slow_tokenizer"])
@pytest.mark.parametrize("value", ["the cat sat on the mat and the dog", "Zürich 😀 😀 😀 the cat"])
def test_what_is_cut_is_counted_and_the_text_ends_where_the_tokens_end(
    request: pytest.FixtureRequest, kind: str, value: str
) -> None:
    tokenizer = request.getfixturevalue(kind)
    whole = tokenizer(value)["input_ids"]
    for length in range(2, len(whole)):
        tokenized = tokenize(texts("the cat", value), tokenizer, length)
        one = tokenized.tokens[1]
        assert one.cut == len(whole) - length
        beginning = value[: one.text_end]
        read = tokenizer.decode(one.input_ids, skip_special_tokens=True)
        # Tokens may end inside of a character.
        assert beginning.startswith(read.rstrip("\ufffd").strip()) and len(beginning) <= len(read)
        assert tokenized.facts()["cut_tokens"] == sum(one.cut for one in tokenized.tokens)
        assert f"data.sequence_length {length}" in tokenized.warnings("data", "documents")[-1]
        assert tokenized.documents.cut is not None
        assert tokenized.documents.cut.text_end[1] == one.text_end
    assert tokenize(texts(value), tokenizer, len(whole)).warnings("data", "documents") == []
    assert tokenize(texts(value), tokenizer, None).documents.cut is None


def test_a_single_token_may_be_packed(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    (document,) = tokenize(texts("the"), plain_tokenizer, None).tokens
    assert len(document) == 1
    assert document.predicted.tolist() == [True]
