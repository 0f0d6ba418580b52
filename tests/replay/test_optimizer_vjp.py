"""The optimizer stage's vector-Jacobian product is that of its formulas, written out once more."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torchopt.base import GradientTransformation

from engine.replay import optimizer_stage
from engine.replay.optimizer_stage import OptimizerStage
from engine.replay.optimizers import LearningRateSpec, OptimizerSpec, build_optimizer
from engine.replay.state import Cotangent, Params
from tests.exactness import oracle

# In the order in which torchopt keeps their moments.
SHAPES = {"a": (2, 2, 3), "b": (7,), "w": (3, 5)}
SPECS = {
    "adamw": OptimizerSpec("adamw", 0.05, eps=1e-6, eps_root=1e-8, weight_decay=0.2),
    "adam": OptimizerSpec("adam", 0.05, (0.7, 0.9), eps=1e-6, eps_root=1e-8, weight_decay=0.2),
    "sgd": OptimizerSpec("sgd", 0.05, weight_decay=0.2, momentum=0.9),
}
MOMENTS = {"adamw": 2, "adam": 2, "sgd": 1}
DONE = 3
"""Updates before the one that is differentiated, so that no moment is zero."""


def draw(seed: int) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in SHAPES.items()}


def differentiated(
    spec: OptimizerSpec, max_norm: float | None, count: int, inputs: list[Params]
) -> list[Tensor]:
    """(θ', moments') as the oracle computes them from (θ, first, second, g)."""
    params, first, second, grads = inputs
    moments = {name: (first[name], second[name]) for name in params}
    grads = oracle.clip(grads, max_norm)
    stepped, new = oracle.update(spec, spec.learning_rate, count, params, grads, moments)
    moments_by_kind = [[new[name][i] for name in params] for i in range(MOMENTS[spec.name])]
    return [*stepped.values(), *(moment for kind in moments_by_kind for moment in kind)]


def expected_vjp(
    spec: OptimizerSpec,
    max_norm: float | None,
    inputs: list[Params],
    cotangent: list[Tensor],
) -> list[Tensor]:
    """The oracle's VJP at (θ, moments, g)."""
    leaves = [{n: t.detach().clone().requires_grad_() for n, t in kind.items()} for kind in inputs]
    outputs = differentiated(spec, max_norm, DONE + 1, leaves)
    wanted = [leaves[0], *leaves[1 : 1 + MOMENTS[spec.name]], leaves[3]]
    sources = [tensor for kind in wanted for tensor in kind.values()]
    return list(torch.autograd.grad(outputs, sources, cotangent, materialize_grads=True))


def some_state(stage: OptimizerStage) -> tuple[Params, list[Any]]:
    params = draw(0)
    state = stage.init(params)
    for step in range(DONE):
        params, state = stage.update(params, state, draw(10 + step))
    return params, state


def float_leaves(stage: OptimizerStage, state: list[Any]) -> list[Tensor]:
    return [leaf for leaf in stage.state_tensors(state).values() if leaf.is_floating_point()]


def in_order(tensors: list[Tensor]) -> Params:
    named = zip(SHAPES.items(), tensors, strict=True)
    return {name: tensor.view(shape) for (name, shape), tensor in named}


@pytest.mark.parametrize("own", [True, False], ids=["closed form", "through autograd"])
@pytest.mark.parametrize("max_norm", [None, 0.5, 1e3], ids=["none", "active", "inactive"])
@pytest.mark.parametrize("name", SPECS)
def test_vjp(name: str, max_norm: float | None, own: bool) -> None:
    spec = SPECS[name]
    optimizer = build_optimizer(spec, LearningRateSpec("constant", 9))
    if not own:
        optimizer = GradientTransformation(optimizer.init, optimizer.update)
    stage = OptimizerStage(optimizer, draw(0), max_grad_norm=max_norm)
    params, state = some_state(stage)
    grads, kinds, size = draw(20), MOMENTS[name], len(SHAPES)
    moments = float_leaves(stage, state)
    first = in_order(moments[:size])
    second = in_order(moments[size:]) if kinds == 2 else draw(0)

    cotangents, wanted = [], []
    for seed in (30, 40):
        at_params, at_moments = draw(seed), [draw(seed + 1 + i) for i in range(kinds)]
        flat = [tensor for kind in at_moments for tensor in kind.values()]
        cotangents.append(Cotangent(at_params, [flat]))
        inputs, cotangent = [params, first, second, grads], [*at_params.values(), *flat]
        wanted.append(expected_vjp(spec, max_norm, inputs, cotangent))

    directions = stage.vjp(params, state, grads, cotangents)
    for at_state, u, expected in zip(cotangents, directions, wanted, strict=True):
        ours = [*at_state.params.values(), *at_state.optimizer[0], *u.values()]
        for mine, theirs in zip(ours, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", SPECS)
def test_vjp_in_pieces_is_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_stage, "GROUP_ELEMENTS", 4)
    results = []
    for elementwise in (False, True):
        optimizer = build_optimizer(SPECS[name], LearningRateSpec("linear", 9))
        stage = OptimizerStage(optimizer, draw(0), elementwise=elementwise, max_grad_norm=0.5)
        params, state = some_state(stage)
        cotangent = Cotangent(draw(30), stage.zero_cotangent(params, state))
        (u,) = stage.vjp(params, state, draw(20), [cotangent])
        results.append((cotangent.params, u))
    for whole, pieces in zip(*results, strict=True):
        assert all(torch.equal(whole[n], pieces[n]) for n in SHAPES)


def test_vjp_of_a_zero_gradient_under_clipping() -> None:
    zero = {name: torch.zeros_like(tensor) for name, tensor in draw(0).items()}
    spec = SPECS["sgd"]
    optimizer = build_optimizer(spec, LearningRateSpec("constant", 9))
    stage = OptimizerStage(optimizer, zero, max_grad_norm=0.5)
    params, state = some_state(stage)
    cotangent = Cotangent(draw(30), stage.zero_cotangent(params, state))
    (u,) = stage.vjp(params, state, zero, [cotangent])
    for name, tensor in draw(30).items():
        torch.testing.assert_close(u[name], -spec.learning_rate * tensor)
