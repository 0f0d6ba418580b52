"""The optimizers are torch's, in pieces of any size; learning rates follow their stated tables."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.replay import optimizer_stage
from engine.replay.optimizer_stage import OptimizerStage, global_norm, slice_into_groups
from engine.replay.optimizers import LearningRateSpec, OptimizerSpec, build_optimizer
from engine.replay.state import Params

STEPS = 8
RATES = {
    "constant": LearningRateSpec("constant", STEPS),
    "linear": LearningRateSpec("linear", STEPS, warmup_fraction=0.3),
    "one_cycle": LearningRateSpec("one_cycle", STEPS, peak_fraction=0.4, start_factor=0.2),
}
TorchOptimizer = Callable[[list[Tensor], OptimizerSpec], torch.optim.Optimizer]
SPECS: dict[str, tuple[OptimizerSpec, TorchOptimizer]] = {
    "adamw": (
        OptimizerSpec("adamw", 0.05, weight_decay=0.2),
        lambda params, s: torch.optim.AdamW(
            params, betas=s.betas, eps=s.eps, weight_decay=s.weight_decay
        ),
    ),
    "adam": (
        OptimizerSpec("adam", 0.05, (0.7, 0.9), 1e-5, weight_decay=0.2),
        lambda params, s: torch.optim.Adam(
            params, betas=s.betas, eps=s.eps, weight_decay=s.weight_decay
        ),
    ),
    "sgd": (
        OptimizerSpec("sgd", 0.05, weight_decay=0.2, momentum=0.9),
        lambda params, s: torch.optim.SGD(params, momentum=s.momentum, weight_decay=s.weight_decay),
    ),
    "sgd without momentum": (
        OptimizerSpec("sgd", 0.05),
        lambda params, s: torch.optim.SGD(params),
    ),
}


def make_params(dtype: torch.dtype = torch.float64) -> Params:
    """Parameters of odd shapes whose names are in no order."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"w": (3, 5), "b": (7,), "scale": (), "a": (2, 2, 3)}
    return {n: torch.randn(s, generator=generator, dtype=dtype) for n, s in shapes.items()}


def make_grads(step: int, dtype: torch.dtype = torch.float64) -> Params:
    generator = torch.Generator().manual_seed(100 + step)
    return {
        name: torch.randn(p.shape, generator=generator, dtype=dtype)
        for name, p in make_params(dtype).items()
    }


def run_stage(stage: OptimizerStage, dtype: torch.dtype = torch.float64) -> list[Params]:
    """The parameters after every step."""
    params = make_params(dtype)
    state, after = stage.init(params), []
    for step in range(STEPS):
        params, state = stage.update(params, state, make_grads(step, dtype))
        after.append(params)
    return after


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", SPECS)
def test_optimizers_are_those_of_torch(name: str, rate: str, max_grad_norm: float | None) -> None:
    spec, build = SPECS[name]
    optimizer = build_optimizer(spec, RATES[rate])
    stage = OptimizerStage(optimizer, make_params(), max_grad_norm=max_grad_norm)
    theirs = {n: p.requires_grad_() for n, p in make_params().items()}
    reference = build(list(theirs.values()), spec)
    for step, ours in enumerate(run_stage(stage)):
        for parameter, grad in zip(theirs.values(), make_grads(step).values(), strict=True):
            parameter.grad = grad
        if max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(theirs.values(), max_grad_norm)
        for group in reference.param_groups:
            group["lr"] = spec.learning_rate * RATES[rate].factor(step)
        reference.step()
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key].detach(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("group_elements", [1, 4, 27, 1000])
@pytest.mark.parametrize("name", SPECS)
def test_pieces_do_not_change_a_bit(
    name: str, group_elements: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer_stage, "GROUP_ELEMENTS", group_elements)
    params, finals = make_params(dtype), []
    for elementwise in (False, True):
        optimizer = build_optimizer(SPECS[name][0], RATES["one_cycle"])
        stage = OptimizerStage(optimizer, params, elementwise=elementwise, max_grad_norm=0.5)
        finals.append(run_stage(stage, dtype)[-1])
    whole, in_pieces = finals
    for key in params:
        assert torch.equal(whole[key], in_pieces[key])


def test_groups_cover_every_element_once_in_order() -> None:
    params = make_params()
    groups = slice_into_groups(params, 4)
    sizes = [sum(piece.of(params).numel() for piece in group) for group in groups]
    assert sizes == [4] * 8 + [3]
    together = torch.cat([piece.of(params) for group in groups for piece in group])
    assert torch.equal(together, torch.cat([p.flatten() for p in params.values()]))


def test_updates_change_nothing_in_place() -> None:
    stage = OptimizerStage(build_optimizer(SPECS["adamw"][0], RATES["constant"]), make_params())
    params, grads = make_params(), make_grads(0)
    state = stage.init(params)
    before = {name: t.clone() for name, t in stage.state_tensors(state).items()}
    stage.update(params, state, grads)
    for after, expected in ((params, make_params()), (grads, make_grads(0))):
        assert all(torch.equal(after[n], expected[n]) for n in expected)
    after_state = stage.state_tensors(state)
    assert all(torch.equal(after_state[name], t) for name, t in before.items())


@pytest.mark.parametrize("name", SPECS)
def test_state_goes_through_tensors_and_back(name: str) -> None:
    stage = OptimizerStage(build_optimizer(SPECS[name][0], RATES["linear"]), make_params())
    params = make_params()
    params, state = stage.update(params, stage.init(params), make_grads(0))
    restored: Any = stage.state_from_tensors(stage.state_tensors(state), params)
    once, _ = stage.update(params, state, make_grads(1))
    again, _ = stage.update(params, restored, make_grads(1))
    assert all(torch.equal(once[n], again[n]) for n in once)


@pytest.mark.parametrize("name", SPECS)
def test_an_update_depends_on_its_arguments_alone(name: str) -> None:
    """A new process that loads a state continues as the process that trained would have."""
    spec, _ = SPECS[name]
    params = make_params()
    used, new = (OptimizerStage(build_optimizer(spec, RATES["constant"]), params) for _ in range(2))
    state = used.init(params)
    for step in range(3):
        params, state = used.update(params, state, make_grads(step))
    expected, _ = used.update(params, state, make_grads(3))
    updated, _ = new.update(params, state, make_grads(3))
    for key in expected:
        assert torch.equal(updated[key], expected[key])


def test_global_norm_is_that_of_clip_grad_norm() -> None:
    params = {n: p.requires_grad_() for n, p in make_params().items()}
    for parameter, grad in zip(params.values(), make_grads(0).values(), strict=True):
        parameter.grad = grad
    norm = torch.nn.utils.clip_grad_norm_(params.values(), 1e9)
    torch.testing.assert_close(global_norm(make_grads(0)), norm)


TABLES: dict[LearningRateSpec, list[float]] = {
    LearningRateSpec("constant", 4): [1, 1, 1, 1],
    LearningRateSpec("constant", 8, warmup_fraction=0.5): [0, 1 / 4, 1 / 2, 3 / 4, 1, 1, 1, 1],
    LearningRateSpec("linear", 4): [1, 3 / 4, 1 / 2, 1 / 4],
    # ⌈0.3 · 5⌉ = 2 updates of warm-up.
    LearningRateSpec("linear", 5, warmup_fraction=0.3): [0, 1 / 2, 1, 2 / 3, 1 / 3],
    LearningRateSpec("cosine", 4): [1, (1 + 0.5**0.5) / 2, 1 / 2, (1 - 0.5**0.5) / 2],
    LearningRateSpec("cosine", 4, warmup_fraction=0.25): [0, 1, 3 / 4, 1 / 4],
    LearningRateSpec("one_cycle", 4, peak_fraction=0.5): [0, 1 / 2, 1, 1 / 2],
    LearningRateSpec("one_cycle", 5, peak_fraction=0.3, start_factor=0.4, end_factor=0.3): [
        0.4,
        0.4 + 0.6 / 1.5,
        1 - 0.7 * 0.5 / 3.5,
        1 - 0.7 * 1.5 / 3.5,
        1 - 0.7 * 2.5 / 3.5,
    ],
    LearningRateSpec("one_cycle", 2, peak_fraction=0.0, end_factor=0.5): [1, 3 / 4],
    LearningRateSpec("one_cycle", 2, peak_fraction=1.0, start_factor=0.5): [1 / 2, 3 / 4],
}


@pytest.mark.parametrize(("spec", "factors"), list(TABLES.items()), ids=str)
def test_learning_rates(spec: LearningRateSpec, factors: list[float]) -> None:
    assert [spec.factor(step) for step in range(spec.steps)] == pytest.approx(factors, abs=1e-15)


@pytest.mark.parametrize("spec", TABLES, ids=str)
def test_updates_are_made_at_the_rate_of_their_step(spec: LearningRateSpec) -> None:
    one = {"p": torch.zeros((), dtype=torch.float64)}
    stage = OptimizerStage(build_optimizer(OptimizerSpec("sgd", 2.0), spec), one)
    params, state, moved = one, stage.init(one), []
    for _ in range(spec.steps):
        stepped, state = stage.update(params, state, {"p": torch.ones((), dtype=torch.float64)})
        moved.append((params["p"] - stepped["p"]).item())
        params = stepped
    assert moved == pytest.approx([2.0 * factor for factor in TABLES[spec]], abs=1e-14)
