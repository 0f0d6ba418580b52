"""A subspace of gradients: its basis, what is left outside of it, and the memory it takes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from engine.replay.query_subspace import Subspace, gram_matrix, subspace_of
from engine.replay.ranks import Ranks
from engine.replay.state import Params


def gradients(rows: Tensor) -> list[Params]:
    """Each row as parameters of two shapes."""
    return [{"a": row[:6].view(2, 3), "b": row[6:]} for row in rows]


def some(count: int, size: int = 17, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator, dtype=torch.float64)


def inside(subspace: Subspace, rows: Tensor) -> Tensor:
    return subspace.coefficients @ (subspace.combinations @ rows)


@pytest.mark.parametrize("held", [2, 3, 5, 6, 7, 100])
def test_gram_matrix_is_the_same_however_few_gradients_are_held(held: int) -> None:
    rows = some(7)
    rows[:, 2] *= 1e3
    grads, alive = gradients(rows), []

    def gradient(index: int) -> Params:
        alive.append(index)
        return grads[index]

    torch.testing.assert_close(gram_matrix(gradient, 7, held), rows @ rows.t(), rtol=1e-13, atol=0)
    assert len(alive) == 7 if held >= 7 else len(alive) <= 2 * 7 * 7 / held + 7


def test_gram_matrix_sums_over_the_ranks_that_share_a_gradient() -> None:
    class Two(Ranks):
        def sum(self, value: Tensor) -> Tensor:
            return 2 * value

    rows = some(3)
    found = gram_matrix(gradients(rows).__getitem__, 3, 3, Two())
    torch.testing.assert_close(found, 2 * rows @ rows.t())


@pytest.mark.parametrize("tolerance", [0.0, 0.1, 0.3, 0.6, 0.9])
def test_shares_outside_are_what_they_say(tolerance: float) -> None:
    common, own = some(3), some(12, seed=1)
    scales = torch.logspace(-3, 3, 12, dtype=torch.float64)[:, None]
    rows = scales * (some(12, 3, seed=2) @ common + 0.2 * own)
    subspace = subspace_of(rows @ rows.t(), tolerance)
    basis = subspace.combinations @ rows
    torch.testing.assert_close(
        basis @ basis.t(), torch.eye(subspace.rank, dtype=torch.float64), rtol=0, atol=1e-9
    )
    left = (rows - inside(subspace, rows)).norm(dim=1) / rows.norm(dim=1)
    torch.testing.assert_close(subspace.outside, left, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(subspace.norms, rows.norm(dim=1))
    assert left.max() <= max(tolerance, 1e-7)
    fewer = {0.0: 12, 0.1: 12, 0.3: 11, 0.6: 8, 0.9: 4}
    assert subspace.rank <= fewer[tolerance]


def test_no_other_subspace_of_its_rank_leaves_less_of_all_gradients_outside() -> None:
    rows = torch.nn.functional.normalize(some(9, 6), dim=1)
    subspace = subspace_of(rows @ rows.t(), 0.7)
    rank = subspace.rank
    assert 1 < rank < 6
    for seed in range(50):
        other = torch.linalg.qr(some(6, rank, seed)).Q
        left = (rows - rows @ other @ other.t()).square().sum()
        assert subspace.outside.square().sum() < left


def test_dependent_gradients_cost_nothing() -> None:
    rows = some(3)
    rows = torch.stack([rows[0], rows[1], rows[0], 1e4 * rows[2], rows[0] + rows[1], -rows[1]])
    subspace = subspace_of(rows @ rows.t(), 0.0)
    assert subspace.rank == 3
    assert subspace.outside.max() < 1e-7
    torch.testing.assert_close(inside(subspace, rows), rows, rtol=1e-12, atol=1e-12)


def test_independent_gradients_are_not_taken_for_dependent_ones() -> None:
    rows = some(4)
    rows[3] = rows[0] + 1e-5 * rows[3]
    assert subspace_of(rows @ rows.t(), 0.0).rank == 4
    # Where gradients are no more exact than this, such a difference says nothing.
    assert subspace_of(rows @ rows.t(), 0.0, torch.bfloat16).rank == 3


def test_a_query_without_a_gradient() -> None:
    rows = some(3)
    rows[1] = 0
    subspace = subspace_of(rows @ rows.t(), 0.0)
    assert subspace.rank == 2 and subspace.outside[1] == 0
    assert inside(subspace, rows)[1].abs().max() == 0
    nothing: Any = subspace_of(torch.zeros(2, 2, dtype=torch.float64), 0.0)
    assert nothing.rank == 1 and nothing.outside.max() == 0
    assert nothing.errors(torch.zeros(1), torch.zeros(2)).max() == 0


def test_expected_errors_are_those_of_a_replay_that_grows_alike_everywhere() -> None:
    rows = torch.nn.functional.normalize(some(8, 400, seed=3), dim=1)
    replay = 5.0 * torch.linalg.qr(some(400, 400, seed=4)).Q.double()
    subspace = subspace_of(rows @ rows.t(), 0.8)
    assert subspace.rank < 8
    exact, found = rows @ replay, inside(subspace, rows) @ replay
    errors = (found - exact).norm(dim=1) / exact.norm(dim=1)
    lengths = (subspace.combinations @ rows @ replay).norm(dim=1)
    torch.testing.assert_close(subspace.errors(lengths, found.norm(dim=1)), errors)
