"""The documents to leave out."""

import numpy as np
import pytest

from engine.evaluation.subsets import most_helpful, random_subsets, single_documents
from engine.runs.errors import UsageError
from engine.runs.request import ValidationRequest


def test_more_subsets_start_with_the_same_ones() -> None:
    few = list(random_subsets(50, ValidationRequest(drop=(0.1, 0.2), count=3)))
    many = list(random_subsets(50, ValidationRequest(drop=(0.2, 0.1, 0.5), count=9)))
    assert {subset.name: subset for subset in many}.items() >= {s.name: s for s in few}.items()
    assert [len(subset.documents) for subset in few] == [5, 5, 5, 10, 10, 10]
    assert len({subset.documents for subset in many}) == 27
    other = random_subsets(50, ValidationRequest(drop=(0.1,), count=3, seed=1))
    assert not {s.documents for s in other} & {s.documents for s in few}


def test_documents_are_left_out_equally_often() -> None:
    subsets = random_subsets(40, ValidationRequest(drop=(0.25,), count=400))
    counts = np.bincount([document for subset in subsets for document in subset.documents])
    # 100 each on average, with a standard deviation of 8.7.
    assert len(counts) == 40 and counts.min() > 60 and counts.max() < 140


def test_single_documents_come_in_one_order() -> None:
    names = [s.name for s in single_documents(9, ValidationRequest(leave_one_out=9))]
    assert sorted(names) == [f"document{number}" for number in range(9)]
    assert [s.name for s in single_documents(9, ValidationRequest(leave_one_out=4))] == names[:4]


def test_the_most_helpful_are_those_of_the_lowest_scores() -> None:
    subset = most_helpful("a0002", 1, np.array([0.5, -2.0, 0.1, -3.0]), 2)
    assert subset.documents == (1, 3) and subset.kind == "drop-top 2"


def test_one_document_at_least_and_never_all() -> None:
    (single,) = random_subsets(10, ValidationRequest(drop=(0.01,), count=1))
    assert len(single.documents) == 1
    with pytest.raises(UsageError, match="leaves none of the 10"):
        list(random_subsets(10, ValidationRequest(drop=(0.99,))))
    with pytest.raises(UsageError, match="give fewer"):
        most_helpful("a0001", 0, np.zeros(3), 3)
