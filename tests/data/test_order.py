"""The order of training takes every row once an epoch and depends on seed and epoch alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data.rows import batch_order, step_table
from engine.runs.errors import UsageError


@given(
    num_rows=st.integers(1, 50),
    batch_size=st.integers(1, 50),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 2**63 - 1),
    shuffle=st.booleans(),
)
def test_every_epoch_takes_every_row_once(
    num_rows: int, batch_size: int, epochs: int, seed: int, shuffle: bool
) -> None:
    batch_size = min(batch_size, num_rows)
    order = batch_order(num_rows, batch_size=batch_size, epochs=epochs, seed=seed, shuffle=shuffle)
    steps_an_epoch = -(-num_rows // batch_size)
    assert len(order) == steps_an_epoch * epochs
    table = step_table(order, num_rows, epochs)
    assert table.shape == (num_rows, epochs)
    assert table.dtype == np.int32
    for epoch in range(epochs):
        steps = order[epoch * steps_an_epoch : (epoch + 1) * steps_an_epoch]
        assert all(len(rows) == batch_size and rows.dtype == np.int64 for rows in steps[:-1])
        assert sorted(np.concatenate(steps)) == list(range(num_rows))
    for step, rows in enumerate(order):
        assert (table[rows, step // steps_an_epoch] == step).all()


def test_the_permutation_of_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    def epoch_rows(epoch: int, **changed: int) -> list[int]:
        settings = {"batch_size": 4, "epochs": 3, "seed": 5} | changed
        order = batch_order(20, shuffle=True, **settings)
        return np.concatenate(order)[epoch * 20 : (epoch + 1) * 20].tolist()

    assert epoch_rows(1) == epoch_rows(1, epochs=2) == epoch_rows(1, batch_size=7)
    assert epoch_rows(1) == np.random.default_rng([5, 1]).permutation(20).tolist()
    assert epoch_rows(1) != epoch_rows(0)
    assert epoch_rows(1) != epoch_rows(1, seed=6)


def test_unshuffled_rows_keep_their_order() -> None:
    order = batch_order(5, batch_size=2, epochs=2, seed=1, shuffle=False)
    assert [rows.tolist() for rows in order] == [[0, 1], [2, 3], [4]] * 2


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        batch_order(10, batch_size=16, epochs=1, seed=0, shuffle=True)
    assert str(caught.value) == (
        "training.batch_size: 16 is more than the number of rows, 10; lower it or add data."
    )
