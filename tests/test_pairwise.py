"""Pairwise combinations contain every pair of values, and are far fewer than the product."""

from itertools import combinations, product
from math import prod

import pytest

from tests.pairwise import pairwise

OPTIONS = [
    [("a", "b"), (1, 2, 3)],
    [(0, 1), (0, 1), (0, 1), (0, 1)],
    [("a", "b"), (1, 2, 3), (None, 2), (False, True), "xyzw", (1, 2, None), "pqrs"],
]


@pytest.mark.parametrize("options", OPTIONS, ids=len)
def test_every_pair_occurs(options: list[tuple[object, ...]]) -> None:
    rows = pairwise(*options)
    assert rows == pairwise(*options)
    for (i, one), (j, other) in combinations(enumerate(options), 2):
        assert {(row[i], row[j]) for row in rows} == set(product(one, other))
    if len(options) > 2:
        largest = sorted(map(len, options))[-2:]
        assert prod(largest) <= len(rows) <= 2 * prod(largest) < prod(map(len, options))
