"""Documents become the tokens that the tokenizer gives, with the right ones to predict."""

import logging
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from engine.contract.errors import UsageError
from engine.data.sources import Documents
from engine.data.tokens import tokenize

Pieces = Callable[[PreTrainedTokenizerBase, list[int]], list[bytes]]


def texts(*values: str) -> Documents:
    return Documents(pa.table({"text": values}), ("text",), np.arange(len(values)) + 100)


def pairs(*values: tuple[str, str]) -> Documents:
    prompts, completions = zip(*values, strict=True)
    table = pa.table({"prompt": prompts, "completion": completions})
    return Documents(table, ("prompt", "completion"), np.arange(len(values)) + 100)


def test_text_is_tokenised_as_by_default_and_every_successor_is_a_target(
    framing_tokenizer: PreTrainedTokenizerFast,
) -> None:
    values = ["the cat sat on the mat", "Zürich 😀\n\n", "a"]
    for value, document in zip(
        values, tokenize(texts(*values), framing_tokenizer, 512, "data"), strict=True
    ):
        assert document.input_ids.tolist() == framing_tokenizer(value)["input_ids"]
        assert document.input_ids.dtype == np.int32
        assert document.targets.tolist() == [True] * (len(document) - 1) + [False]


def test_documents_are_cut_and_the_last_kept_token_is_no_target(
    plain_tokenizer: PreTrainedTokenizerFast,
) -> None:
    value = "what is the capital of France? " * 3
    whole = plain_tokenizer(value)["input_ids"]
    (cut,) = tokenize(texts(value), plain_tokenizer, 5, "data")
    assert cut.input_ids.tolist() == whole[:5]
    assert cut.targets.tolist() == [True] * 4 + [False]
    (uncut,) = tokenize(texts(value), plain_tokenizer, None, "data")
    assert uncut.input_ids.tolist() == whole


def test_more_documents_than_a_batch_keep_their_order(
    plain_tokenizer: PreTrainedTokenizerFast,
) -> None:
    values = [f"cat {number}" for number in range(2345)]
    tokenized = tokenize(texts(*values), plain_tokenizer, None, "data")
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
        tokenized = tokenize(texts(*values), plain_tokenizer, None, "data")
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
    tokenize(texts(long), plain_tokenizer, 4, "data")
    tokenize(pairs((long, "sat")), plain_tokenizer, None, "data")
    assert caplog.messages == []
    plain_tokenizer(long)
    assert "longer than the specified maximum" in caplog.text


words = st.text(st.sampled_from("the catsondFrce?é😀\n"), max_size=12)


@given(prompt=words, completion=words.filter(bool))
@pytest.mark.parametrize("kind", ["plain_tokenizer", "framing_tokenizer"])
def test_tokens_that_reach_into_the_completion_are_predicted(
    request: pytest.FixtureRequest, pieces: Pieces, kind: str, prompt: str, completion: str
) -> None:
    tokenizer = request.getfixturevalue(kind)
    (document,) = tokenize(pairs((prompt, completion)), tokenizer, None, "data")
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
    (document,) = tokenize(pairs((prompt, " Paris")), framing_tokenizer, 512, "data")
    first = len(framing_tokenizer(prompt)["input_ids"]) - 1
    assert document.targets.tolist() == [
        first - 1 <= j < len(document) - 1 for j in range(len(document))
    ]
    assert document.input_ids[-1] == framing_tokenizer.eos_token_id
    assert document.predicted[-1]
    (empty_prompt,) = tokenize(pairs(("", "the cat")), framing_tokenizer, 512, "data")
    assert empty_prompt.predicted.tolist() == [False] + [True] * (len(empty_prompt) - 1)


def test_without_offsets_the_prompt_alone_tells_where_the_completion_begins(
    slow_tokenizer: PreTrainedTokenizerBase,
) -> None:
    assert not slow_tokenizer.is_fast
    both = tokenize(pairs(("abc", "de"), ("é", "é")), slow_tokenizer, 512, "data")
    assert both[0].input_ids.tolist() == slow_tokenizer("abcde")["input_ids"]
    assert both[0].predicted.tolist() == [False] * 3 + [True] * 3
    assert both[1].predicted.tolist() == [False] * 2 + [True] * 3


def test_without_offsets_a_token_over_the_boundary_belongs_to_the_completion(
    plain_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = pairs(("the ca", "t sat"), ("the cat", " sat"))
    assert plain_tokenizer.tokenize("the cat sat") == ["the", "Ġcat", "Ġsat"]
    expected = tokenize(documents, plain_tokenizer, 512, "data")
    monkeypatch.setattr(type(plain_tokenizer), "is_fast", False)
    without_offsets = tokenize(documents, plain_tokenizer, 512, "data")
    for ours, theirs in zip(without_offsets, expected, strict=True):
        assert ours.predicted.tolist() == theirs.predicted.tolist()
    assert without_offsets[0].predicted.tolist() == [False, True, True]
    assert without_offsets[1].predicted.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("documents", "length", "message"),
    [
        (
            texts("the cat", "", "the dog", ""),
            512,
            "queries.text_column: the text of row 101 (from 0) (and of 1 more) is empty; "
            "fill it in or remove the row.",
        ),
        (
            texts("the cat", ""),
            None,
            "queries.text_column: the text of row 101 (from 0) is empty; "
            "fill it in or remove the row.",
        ),
        (
            texts("the"),
            512,
            "queries.text_column: the text of row 100 (from 0) is a single token with no next one "
            "to predict; lengthen it or remove the row.",
        ),
        (
            pairs(("the cat", " sat"), ("the cat", "")),
            None,
            "queries.completion_column: the completion of row 101 (from 0) is empty; "
            "fill it in or remove the row.",
        ),
        (
            pairs(("", "the")),
            512,
            "queries.completion_column: the completion of row 100 (from 0) is a single token with "
            "no next one to predict; lengthen it or remove the row.",
        ),
        (
            pairs(("the the the", " the")),
            3,
            "queries.completion_column: the completion of row 100 (from 0) begins after 3 tokens "
            "of prompt, beyond data.sequence_length 3; shorten the prompt, raise the length or "
            "remove the row.",
        ),
    ],
)
def test_documents_without_a_target_are_refused(
    plain_tokenizer: PreTrainedTokenizerFast,
    documents: Documents,
    length: int | None,
    message: str,
) -> None:
    with pytest.raises(UsageError) as caught:
        tokenize(documents, plain_tokenizer, length, "queries")
    assert str(caught.value) == message


def test_an_empty_text_is_refused_even_where_special_tokens_are_added(
    framing_tokenizer: PreTrainedTokenizerFast,
) -> None:
    with pytest.raises(UsageError, match=r"row 100 .* is empty"):
        tokenize(texts(""), framing_tokenizer, 512, "data")


def test_a_completion_that_the_tokenizer_drops_is_refused() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({"cat": 0, "?": 1}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(UsageError, match=r"completion of row 100 .* yields no token"):
        tokenize(pairs(("cat", "  ")), tokenizer, 512, "data")


def test_a_single_token_may_be_packed(plain_tokenizer: PreTrainedTokenizerFast) -> None:
    (document,) = tokenize(texts("the"), plain_tokenizer, None, "data")
    assert len(document) == 1
    assert document.predicted.tolist() == [True]
