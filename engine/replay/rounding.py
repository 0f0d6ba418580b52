"""How far rounding puts scores off, estimated from what a replay passes anyway.

Two things round. The replay's own arithmetic adds a few ε at every step, and the training's moves
the states that its derivatives are taken at. The second is the one that grows: a difference at
step s reaches step t as large as the training makes it on its way.

Write λ_t for a query's cotangent at θ_t, and let every parameter of every state be off by ε of its
size. A difference δ_t of the states and the differences that caused it are tied together by the
adjoint identity ⟨λ_t, δ_t⟩ = Σ_{s≤t} ⟨λ_s, ε θ_s⟩, so the relative difference of the state is at
least

    D_t = ε √(Σ_{s≤t} ‖λ_s ⊙ θ_s‖²) / (‖λ_t‖ ‖θ_t‖),

of which the largest over all queries is taken: there is only one training. What it changes in a
step's Jacobian goes with what that Jacobian does, a_t = ‖λ_t - λ_{t+1}‖ / ‖λ_{t+1}‖, and what it
changes in a step's scores with D_t itself. With the scores s_t of step t, a query's relative error
is then about

    E² = Σ_t ‖s_t‖² (κ Σ_{τ>t} a_τ D_τ + ρ D_t)² / Σ_t ‖s_t‖²,

and E (1 + E/σ) once it is no longer small, as differences then make differences. Added to it are
what the replay's own arithmetic does, ν ε, and ε/|φ|: a loss far below 1 is a difference of numbers
near 1. κ, ρ, σ and ν are constants fitted to the true errors of float32 against float64, which
``benchmarks/bench_rounding.py`` prints beside the estimates. Nothing more is replayed or
differentiated: the norms are those of a sample of the parameters. What is not seen: gradients that
are 0 but for rounding, which Adam with a tiny ``eps_root`` makes steps of.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine.replay.ranks import Ranks
from engine.replay.state import Cotangent, Params, TrainState

SIGNALS = 5
"""Kept of every query and step: ‖λ_{t+1}‖, ‖λ_t‖, ‖λ_t - λ_{t+1}‖, ‖λ_t ⊙ θ_t‖ / ‖θ_t‖, ‖s_t‖."""
SAMPLE = 2**16
"""Parameters that norms are taken of, at most, evenly over each tensor."""
JACOBIAN, SCORE, FAST, FLOOR = 15.0, 2.0, 0.1, 4.0
"""κ, ρ, σ and ν."""


class Signals:
    """Takes down what :func:`relative_rounding` needs, as a replay goes by."""

    def __init__(self, into: Tensor, ranks: Ranks) -> None:
        """Fill ``into`` (query, step, :data:`SIGNALS`); ``ranks`` hold the other shards."""
        self._into = into
        self._ranks = ranks
        self._before: list[list[Tensor]] = []

    def before(self, cotangents: Sequence[Cotangent]) -> None:
        """The cotangents at s_{t+1}, which the step is about to overwrite."""
        self._before = [_sample(cotangent.params) for cotangent in cotangents]

    def after(self, state: TrainState, cotangents: Sequence[Cotangent], scores: Tensor) -> None:
        """The cotangents at s_t, and the step's scores (query, *weights)."""
        theta = _sample(state.params)
        lines = []
        for before, cotangent in zip(self._before, cotangents, strict=True):
            after = _sample(cotangent.params)
            changes = [a - b for a, b in zip(after, before, strict=True)]
            products = [a * t for a, t in zip(after, theta, strict=True)]
            lines += [_square(x, state.params) for x in (before, after, changes, products, theta)]
        self._before = []
        if not lines:
            return
        squares = torch.stack(lines).cpu()
        if self._ranks.count > 1:
            squares = self._ranks.sum(squares)
        found = squares.view(len(cotangents), 5).sqrt()
        found[:, 3] /= found[:, 4].clamp(min=1e-300)
        found[:, 4] = torch.linalg.vector_norm(scores.flatten(1).double(), dim=1).cpu()
        self._into[:, state.step] = found


def new_signals(queries: int, steps: int) -> Tensor:
    """Zeros to be filled by :class:`Signals`."""
    return torch.zeros(queries, steps, SIGNALS, dtype=torch.float64)


def relative_rounding(signals: Tensor, dtype: torch.dtype, phi: Tensor) -> Tensor:
    """(query,) The relative errors of the scores to expect, at most 1; NaN where all are 0.

    Args:
        signals: (query, step, :data:`SIGNALS`) of all queries of one training.
        dtype: computed in.
        phi: (query,) the measurements at the end of training.
    """
    eps = torch.finfo(dtype).eps
    before, after, change, product, scores = signals.unbind(2)
    tiny = 1e-300
    differences = eps * product.square().cumsum(1).sqrt() / after.clamp(min=tiny)
    differences = differences.nan_to_num(0.0, 1.0).amax(0).clamp(max=1.0)
    turned = change / before.clamp(min=tiny) * differences
    later = turned.flip(1).cumsum(1).flip(1) - turned
    each = (JACOBIAN * later + SCORE * differences).clamp(max=1.0)
    grown = ((scores * each).square().sum(1) / scores.square().sum(1)).sqrt()
    found = torch.hypot(grown * (1 + grown / FAST), torch.tensor(FLOOR * eps))
    found = torch.hypot(found, eps / phi.abs().clamp(min=tiny))
    return found.clamp(max=1.0)


def growth(signals: Tensor) -> dict[str, Any]:
    """How the cotangents' norms went: each one's at s_T, the largest growth, and at which step.

    ``growth`` is ‖λ_t‖ / ‖λ_T‖ of the query and ``step`` t where it is largest, and ``from`` the
    norm it grew from. Norms are those of the parameters sampled.
    """
    first = signals[:, -1, 0].clamp(min=1e-300)
    most, steps = signals[:, :, 1].max(1)
    query = int((most / first).argmax())
    return {
        "query": query,
        "from": first[query].item(),
        "growth": (most / first)[query].item(),
        "step": int(steps[query]),
    }


def _sample(tensors: Params) -> list[Tensor]:
    """Evenly spaced elements of each tensor, by name: those read from a file come in any order."""
    # Odd, so that it does not come down in the same column of every row.
    stride = -(-sum(tensor.numel() for tensor in tensors.values()) // SAMPLE) | 1
    ordered = (tensors[name] for name in sorted(tensors))
    return [tensor.detach().reshape(-1)[::stride].double() for tensor in ordered]


def _square(sample: Sequence[Tensor], of: Params) -> Tensor:
    """The squared norm of all tensors, from a sample of each."""
    pairs = zip(sample, (of[name] for name in sorted(of)), strict=True)
    shares = [part.square().sum() * (t.numel() / max(1, part.numel())) for part, t in pairs]
    return torch.stack(shares).sum()
