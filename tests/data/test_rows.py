"""Rows hold every token of every document once, and count the right positions as targets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data.rows import PADDING, Rows, one_document_a_row, packed
from engine.data.tokens import TokenizedDocument
from engine.runs.errors import UsageError

END, FILL = 1000, 2000


def document(ids: list[int], completion_start: int = 0) -> TokenizedDocument:
    predicted = np.arange(len(ids)) >= completion_start
    return TokenizedDocument(np.array(ids, dtype=np.int32), predicted)


@st.composite
def documents(draw: st.DrawFn) -> TokenizedDocument:
    ids = draw(st.lists(st.integers(0, 999), min_size=1, max_size=20))
    return document(ids, draw(st.integers(0, len(ids) - 1)))


def assert_well_formed(rows: Rows, pad_id: int) -> None:
    """What holds of rows of either kind."""
    count, tokens = rows.input_ids.shape
    assert rows.input_ids.dtype == rows.lengths.dtype == np.int32
    assert rows.document_ids.dtype == np.int64
    assert rows.targets.dtype == np.bool_
    assert rows.document_ids.shape == rows.targets.shape == (count, tokens)
    assert rows.lengths.max() == tokens
    padding = np.arange(tokens) >= rows.lengths[:, None]
    assert ((rows.document_ids == PADDING) == padding).all()
    assert (rows.input_ids[padding] == pad_id).all()
    assert not rows.targets[padding].any()
    assert not rows.targets[:, -1].any()
    assert not rows.targets[np.arange(count), rows.lengths - 1].any()


@given(tokenized=st.lists(documents(), min_size=1, max_size=8))
def test_one_document_a_row_holds_each_document_as_it_is(
    tokenized: list[TokenizedDocument],
) -> None:
    rows = one_document_a_row(tokenized, FILL)
    assert_well_formed(rows, FILL)
    assert len(rows) == len(tokenized)
    for i, (one, length) in enumerate(zip(tokenized, rows.lengths, strict=True)):
        assert rows.input_ids[i, :length].tolist() == one.input_ids.tolist()
        assert rows.targets[i, :length].tolist() == one.targets.tolist()
        assert set(rows.document_ids[i, :length]) == {i}


@given(
    tokenized=st.lists(documents(), min_size=1, max_size=8),
    sequence_length=st.integers(2, 40),
)
def test_packing_cuts_the_joined_documents(
    tokenized: list[TokenizedDocument], sequence_length: int
) -> None:
    rows = packed(tokenized, sequence_length, END, FILL)
    assert_well_formed(rows, FILL)

    ids, owners, predicted = [], [], []
    for i, one in enumerate(tokenized):
        ids += [*one.input_ids.tolist(), END]
        owners += [i] * (len(one) + 1)
        predicted += [*one.predicted.tolist(), True]
    real = rows.document_ids != PADDING
    assert rows.input_ids[real].tolist() == ids
    assert rows.document_ids[real].tolist() == owners
    assert (rows.lengths[:-1] == min(sequence_length, len(ids))).all()
    assert rows.lengths.sum() == len(ids)

    width = rows.input_ids.shape[1]
    for flat, is_target in enumerate(rows.targets.flatten()):
        has_successor = flat % width < width - 1 and flat + 1 < len(ids)
        assert is_target == (has_successor and predicted[flat + 1])


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    sequence_length=st.integers(2, 40),
)
def test_packed_texts_count_every_position_with_a_successor(
    lengths: list[int], sequence_length: int
) -> None:
    rows = packed([document([7] * length) for length in lengths], sequence_length, END, FILL)
    assert (rows.targets.sum(axis=1) == rows.lengths - 1).all()


@pytest.mark.parametrize("start", [[], [5]])
@pytest.mark.parametrize("end", [[], [END]])
def test_packed_documents_end_once_whatever_the_tokenizer_adds(
    start: list[int], end: list[int]
) -> None:
    texts = [document([*start, 1, 2, *end]), document([*start, 3, *end])]
    rows = packed(texts, 100, END, FILL)
    assert rows.input_ids.tolist() == [[*start, 1, 2, END, *start, 3, END]]
    assert rows.document_ids.sum() == len(start) + 2
    assert rows.targets.all(axis=1).tolist() == [False]
    assert rows.targets.sum() == rows.lengths.sum() - 1

    prompt = len(start) + 1
    completion = packed([document([*start, 1, 2, *end], prompt)], 100, END, FILL)
    assert completion.targets[0].tolist() == [False] * (prompt - 1) + [True, True, False]


def test_packing_completions_spelled_out() -> None:
    """Prompts 1 2 and 5; completions 3 4 and 6; rows of four tokens."""
    tokenized = [document([1, 2, 3, 4], completion_start=2), document([5, 6], completion_start=1)]
    rows = packed(tokenized, 4, END, FILL)
    assert rows.input_ids.tolist() == [[1, 2, 3, 4], [END, 5, 6, END]]
    assert rows.document_ids.tolist() == [[0, 0, 0, 0], [0, 1, 1, 1]]
    assert rows.targets.tolist() == [[False, True, True, False], [False, True, True, False]]


def test_short_data_makes_one_short_row() -> None:
    rows = packed([document([1, 2, 3])], 512, END, FILL)
    assert rows.input_ids.tolist() == [[1, 2, 3, END]]
    assert rows.lengths.tolist() == [4]


def test_packing_needs_an_end_token() -> None:
    with pytest.raises(UsageError, match=r"^data\.packing: .* no end-of-sequence token"):
        packed([document([1, 2])], 4, None, FILL)
