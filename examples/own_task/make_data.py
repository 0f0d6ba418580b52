"""Write train.csv and queries.csv: two measurements and a label.

Five training labels are flipped.
"""

import csv

import numpy as np

FLIPPED = (3, 11, 20, 31, 44)
"""Rows of train.csv whose label is wrong."""


def make_rows(count: int, seed: int) -> list[list[float]]:
    """Rows of leaf width, stem height and label; the label is 1 where their sum is positive."""
    measurements = np.random.default_rng(seed).normal(size=(count, 2))
    labels = measurements.sum(axis=1) > 0
    pairs = zip(measurements, labels, strict=True)
    return [[float(x), float(y), int(label)] for (x, y), label in pairs]


def write_rows(path: str, rows: list[list[float]]) -> None:
    """Write a table with a header."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["width", "height", "early"], *rows])


if __name__ == "__main__":
    train = make_rows(60, seed=0)
    for row in FLIPPED:
        train[row][2] = 1 - train[row][2]
    write_rows("train.csv", train)
    write_rows("queries.csv", make_rows(8, seed=1))
