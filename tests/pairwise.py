"""Combinations of options in which every pair of values of two options occurs."""

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

Pair = tuple[tuple[int, int], tuple[int, int]]
"""Two different options, each with the index of one of its values."""


def pairwise(*options: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Combinations of one value per option that contain every pair of values of two options.

    Far fewer than the full product: 10 options of 2 to 4 values give about 20 combinations. The
    result is a function of the arguments. Greedy: a combination starts with the first pair that is
    not covered, and each further value is the one that covers the most pairs.
    """
    axes = range(len(options))
    # A dict is a set that keeps its order.
    uncovered: dict[Pair, None] = {
        ((i, a), (j, b)): None
        for i, j in combinations(axes, 2)
        for a, b in product(range(len(options[i])), range(len(options[j])))
    }
    rows = []
    while uncovered:
        row = dict(next(iter(uncovered)))
        for axis in axes:
            if axis not in row:
                gains = [
                    sum(_pair(axis, value, *other) in uncovered for other in row.items())
                    for value in range(len(options[axis]))
                ]
                # Of equally good values, take turns.
                best = [value for value, gain in enumerate(gains) if gain == max(gains)]
                row[axis] = best[len(rows) % len(best)]
        for pair in combinations(sorted(row.items()), 2):
            uncovered.pop(pair, None)
        rows.append(tuple(options[axis][row[axis]] for axis in axes))
    return rows


def _pair(axis: int, value: int, other: int, other_value: int) -> Pair:
    first, second = sorted(((axis, value), (other, other_value)))
    return first, second
