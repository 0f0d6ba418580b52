"""The order of training: which rows each step takes, a pure function of (seed, epoch)."""

import numpy as np
from numpy.typing import NDArray

from engine.runs.errors import UsageError


def batch_order(
    num_rows: int, *, batch_size: int, epochs: int, seed: int, shuffle: bool
) -> list[NDArray[np.int64]]:
    """The rows of every step of the training.

    Each epoch takes every row once, in a permutation of its own; its last batch may be smaller.

    Returns:
        One array of row indices a step.

    Raises:
        UsageError: a batch holds more rows than there are.
    """
    if batch_size > num_rows:
        raise UsageError(
            f"training.batch_size: {batch_size} is more than the number of rows, {num_rows}; "
            "lower it or add data."
        )
    steps: list[NDArray[np.int64]] = []
    for epoch in range(epochs):
        rows = np.arange(num_rows, dtype=np.int64)
        if shuffle:
            rows = np.random.default_rng([seed, epoch]).permutation(rows)
        steps += np.split(rows, range(batch_size, num_rows, batch_size))
    return steps


def step_table(order: list[NDArray[np.int64]], num_rows: int, epochs: int) -> NDArray[np.int32]:
    """The step at which each row was used, of shape (rows, epochs), for a ``batch_order``."""
    table = np.empty((num_rows, epochs), dtype=np.int32)
    steps_an_epoch = len(order) // epochs
    for step, rows in enumerate(order):
        table[rows, step // steps_an_epoch] = step
    return table
