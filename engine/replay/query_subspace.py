"""Fewer replays than queries: scores are linear in a query's gradient.

Scores s = R g are a linear function of the gradient g of a query at the end of training. So n
queries whose gradients lie in an r-dimensional subspace need r replays, of an orthonormal basis
b_1 … b_r of it: with g_i = Σ_j c_ij b_j + ρ_i,

    s_i = Σ_j c_ij R b_j + R ρ_i,

and what is left out, R ρ_i, is what the replay makes of the share ‖ρ_i‖ / ‖g_i‖ of the gradient
outside the subspace. The basis is that of the leading eigenvectors of the Gram matrix of the
gradients, each scaled to length 1 so that no query counts for less because its loss is flat:
of all subspaces of r dimensions it leaves the least outside (Eckart and Young, 1936).

The inner product is the Euclidean one. Of those tried on trained language models (Euclid, powers
of Adam's preconditioner 1/(√v̂ + ε), the second moment itself, the scores of the last steps) its
shares come closest to the true relative errors of the scores; benchmarks/bench_queries.py
measures them. :meth:`Subspace.errors` comes closer still, by the gain that the replays of the
basis show.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.replay.ranks import ALONE, Ranks
from engine.replay.state import Params

COLUMNS = 2**18
"""Elements of every gradient that are multiplied at a time, in float64."""


@dataclass(frozen=True)
class Subspace:
    """A subspace of query gradients; all tensors are float64 on the CPU."""

    combinations: Tensor
    """(rank, query): b_j = Σ_i combinations[j, i] g_i, orthonormal, most of all gradients first."""
    coefficients: Tensor
    """(query, rank): the part of g_i inside is Σ_j coefficients[i, j] b_j."""
    outside: Tensor
    """(query,): ‖ρ_i‖ / ‖g_i‖, between 0 and 1."""
    norms: Tensor
    """(query,): ‖g_i‖."""

    @property
    def rank(self) -> int:
        """Replays it takes."""
        return self.combinations.shape[0]

    def errors(self, basis_norms: Tensor, norms: Tensor) -> Tensor:
        """(query,) The relative errors of the scores to expect, between 0 and 1.

        What is outside is taken to grow in the replay as the later half of the basis did, which
        resembles it most, and to add to the scores at a right angle.

        Args:
            basis_norms: (rank,) 2-norms of the scores of the basis.
            norms: (query,) 2-norms of the scores found for the queries.
        """
        gain = basis_norms[self.rank // 2 :].square().mean().sqrt()
        left_out = gain * self.outside * self.norms
        found = torch.hypot(norms, left_out)
        return torch.where(found > 0, left_out / found.clamp(min=1e-300), 0.0)


def gram_matrix(
    gradient: Callable[[int], Params], count: int, held: int, ranks: Ranks = ALONE
) -> Tensor:
    """(query, query) Inner products ⟨g_i, g_j⟩, float64 on the CPU.

    Never more than ``held`` gradients are there at a time, on no disk: beyond that they are
    computed again, count² / held times in all.

    Args:
        gradient: g_i of a query i; asked several times for the same.
        count: how many there are.
        held: gradients that fit into memory, 2 at least.
        ranks: who holds the other shards of each gradient.
    """
    gram = torch.zeros(count, count, dtype=torch.float64)
    size = count if count <= held else max(1, held // 2)
    blocks = [range(first, min(first + size, count)) for first in range(0, count, size)]
    for number, rows in enumerate(blocks):
        ours = [gradient(index) for index in rows]
        for columns in blocks[number:]:
            theirs = ours if columns == rows else [gradient(index) for index in columns]
            products = _products(ours, theirs)
            gram[rows.start : rows.stop, columns.start : columns.stop] = products
            gram[columns.start : columns.stop, rows.start : rows.stop] = products.t()
            del theirs
    return ranks.sum(gram)


def subspace_of(gram: Tensor, tolerance: float, dtype: torch.dtype = torch.float64) -> Subspace:
    """The leading directions, as few as leave no query's share outside above ``tolerance``.

    Args:
        gram: (query, query) inner products of the gradients.
        tolerance: largest share outside, 0 for none beyond rounding.
        dtype: of the gradients. A share below its rounding, or below √(n ε) ≈ 1e-7 of the
            products', cannot be told from 0.
    """
    gram, eps = gram.double(), torch.finfo(torch.float64).eps
    norms = gram.diagonal().clamp(min=0).sqrt()
    scale = torch.where(norms > 0, 1 / norms.clamp(min=1e-300), 0.0)
    values, vectors = torch.linalg.eigh(scale[:, None] * gram * scale)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    # beyond[i, r]: squared share of query i that lies outside the leading r directions.
    shares = vectors.square() * values
    beyond = torch.cat([shares.flip(1).cumsum(1).flip(1), torch.zeros(len(gram), 1)], dim=1)
    least = max(tolerance, 8 * torch.finfo(dtype).eps, math.sqrt(len(gram) * eps))
    fits = (beyond.amax(0).sqrt() <= least).nonzero()
    rank = max(1, int(fits[0]))
    kept, leading = values[:rank].sqrt(), vectors[:, :rank]
    inverse = torch.where(kept > 0, 1 / kept.clamp(min=1e-300), 0.0)
    return Subspace(
        (leading * inverse).t().contiguous() * scale,
        leading * kept * norms[:, None],
        beyond[:, rank].sqrt().clamp(max=1.0),
        norms,
    )


def _products(ours: Sequence[Params], theirs: Sequence[Params]) -> Tensor:
    total = torch.zeros(len(ours), len(theirs), dtype=torch.float64)
    for name in ours[0]:
        for start in range(0, ours[0][name].numel(), COLUMNS):
            part = slice(start, start + COLUMNS)
            left = _columns(ours, name, part)
            right = left if theirs is ours else _columns(theirs, name, part)
            total += (left @ right.t()).cpu()
    return total


def _columns(gradients: Sequence[Params], name: str, part: slice) -> Tensor:
    return torch.stack([grads[name].reshape(-1)[part] for grads in gradients]).double()
