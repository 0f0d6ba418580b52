"""Estimate the relative error of scores that rounding causes, from the cotangents of a replay.

Rounding enters twice. The arithmetic of replay adds a few ε at every step. The arithmetic of
training moves the states at which derivatives are taken, and this error grows: training amplifies a
difference at step s until step t.

Let λ_t be a query's cotangent at θ_t, and let every parameter of every state have a relative error
ε. The adjoint identity ⟨λ_t, δ_t⟩ = Σ_{s≤t} ⟨λ_s, ε θ_s⟩ relates a difference δ_t of the states to
the differences that caused it, so the relative difference of the state is at least

    D_t = ε √(Σ_{s≤t} ‖λ_s ⊙ θ_s‖²) / (‖λ_t‖ ‖θ_t‖),

The estimate uses the largest over all queries, as there is one training. The change that D_t causes
in a step's Jacobian scales with the Jacobian's effect a_t = ‖λ_t - λ_{t+1}‖ / ‖λ_{t+1}‖, and the
change in a step's scores with D_t itself. With the scores s_t of step t, the relative error of a
query is then about

    E² = Σ_t ‖s_t‖² (κ Σ_{τ>t} a_τ D_τ + ρ D_t)² / Σ_t ‖s_t‖²,

and E (1 + E/σ) when E is large, because the amplification is then nonlinear. The arithmetic of
replay adds ν ε, and the measurement adds ε/|φ|, as a loss far below 1 is a difference of numbers
near 1. The constants κ, ρ, σ and ν are fitted to the true errors of float32 against float64, which
``benchmarks/bench_rounding.py`` prints next to the estimates. The estimate needs no extra replay or
derivative; norms are taken over a sample of the parameters.

Limitation: gradients that are 0 except for rounding are not seen. Adam with a tiny ``eps_root``
turns them into steps.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine.replay.ranks import Ranks
from engine.replay.state import Cotangent, Params, TrainState

SIGNALS = 5
"""Per query and step: ‖λ_{t+1}‖, ‖λ_t‖, ‖λ_t - λ_{t+1}‖, ‖λ_t ⊙ θ_t‖ / ‖θ_t‖, ‖s_t‖."""
SAMPLE = 2**16
"""The most parameters that norms are computed from, evenly spaced over each tensor."""
JACOBIAN, SCORE, FAST, FLOOR = 15.0, 2.0, 0.1, 4.0
"""κ, ρ, σ and ν."""


class Signals:
    """Records the inputs of :func:`relative_rounding` during a replay."""

    def __init__(self, into: Tensor, ranks: Ranks) -> None:
        """Fill ``into`` (query, step, :data:`SIGNALS`); ``ranks`` hold the other shards."""
        self._into = into
        self._ranks = ranks
        self._before: list[list[Tensor]] = []

    def before(self, cotangents: Sequence[Cotangent]) -> None:
        """Record the cotangents at s_{t+1} before the step overwrites them."""
        self._before = [_sample(cotangent.params) for cotangent in cotangents]

    def after(self, state: TrainState, cotangents: Sequence[Cotangent], scores: Tensor) -> None:
        """Record the cotangents at s_t, and the step's scores (query, *weights)."""
        theta = _sample(state.params)
        squares_by_query = []
        for before, cotangent in zip(self._before, cotangents, strict=True):
            after = _sample(cotangent.params)
            changes = [a - b for a, b in zip(after, before, strict=True)]
            products = [a * t for a, t in zip(after, theta, strict=True)]
            squares_by_query += [
                _square(x, state.params) for x in (before, after, changes, products, theta)
            ]
        self._before = []
        if not squares_by_query:
            return
        squares = torch.stack(squares_by_query).cpu()
        if self._ranks.count > 1:
            squares = self._ranks.sum(squares)
        norms = squares.view(len(cotangents), 5).sqrt()
        norms[:, 3] /= norms[:, 4].clamp(min=1e-300)
        norms[:, 4] = torch.linalg.vector_norm(scores.flatten(1).double(), dim=1).cpu()
        self._into[:, state.step] = norms


def new_signals(queries: int, steps: int) -> Tensor:
    """(query, step, :data:`SIGNALS`) Zeros, for :class:`Signals` to fill."""
    return torch.zeros(queries, steps, SIGNALS, dtype=torch.float64)


def relative_rounding(signals: Tensor, dtype: torch.dtype, phi: Tensor) -> Tensor:
    """(query,) The expected relative errors of the scores, at most 1; NaN where all are 0.

    Args:
        signals: (query, step, :data:`SIGNALS`) of all queries of one training.
        dtype: the dtype of the replay.
        phi: (query,) the measurements at the end of training.
    """
    eps = torch.finfo(dtype).eps
    before, after, change, product, scores = signals.unbind(2)
    tiny = 1e-300
    differences = eps * product.square().cumsum(1).sqrt() / after.clamp(min=tiny)
    differences = differences.nan_to_num(0.0, 1.0).amax(0).clamp(max=1.0)
    relative_changes = change / before.clamp(min=tiny) * differences
    later = relative_changes.flip(1).cumsum(1).flip(1) - relative_changes
    each = (JACOBIAN * later + SCORE * differences).clamp(max=1.0)
    grown = ((scores * each).square().sum(1) / scores.square().sum(1)).sqrt()
    error = torch.hypot(grown * (1 + grown / FAST), torch.tensor(FLOOR * eps))
    error = torch.hypot(error, eps / phi.abs().clamp(min=tiny))
    return error.clamp(max=1.0)


def growth(signals: Tensor) -> dict[str, Any]:
    """The largest growth of a cotangent's norm during replay.

    ``growth`` is the largest ‖λ_t‖ / ‖λ_T‖, at query ``query`` and step ``step``; ``from`` is
    ‖λ_T‖ of that query. Norms are those of the sampled parameters.
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
    """Evenly spaced elements of each tensor, sorted by name, as files keep no order."""
    # Odd, so that it does not hit the same column of every row.
    stride = -(-sum(tensor.numel() for tensor in tensors.values()) // SAMPLE) | 1
    ordered = (tensors[name] for name in sorted(tensors))
    return [tensor.detach().reshape(-1)[::stride].double() for tensor in ordered]


def _square(sample: Sequence[Tensor], of: Params) -> Tensor:
    """The squared norm of all tensors, estimated from a sample of each."""
    pairs = zip(sample, (of[name] for name in sorted(of)), strict=True)
    shares = [part.square().sum() * (t.numel() / max(1, part.numel())) for part, t in pairs]
    return torch.stack(shares).sum()
