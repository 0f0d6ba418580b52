"""The chunked head and cross-entropy equals the plain one under two derivatives."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.replay import linear_cross_entropy as module
from engine.replay.linear_cross_entropy import linear_cross_entropy, weighted_linear_cross_entropy

TOKENS, WIDTH, VOCABULARY = 7, 5, 11
CHUNKS = {"one token": 1, "two tokens": 2 * VOCABULARY, "uneven": 3 * VOCABULARY + 4, "all": 2**23}
CACHE = {"cached": 2**30, "recomputed": 0}
Problem = tuple[Tensor, Tensor, Tensor, Tensor]
VIEWS = (torch.ops.aten.t.default, torch.ops.aten.detach.default)


def make_problem(dtype: torch.dtype = torch.float64) -> Problem:
    """Hidden states, output matrix, coefficients (also negative and zero) and targets."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator, dtype=dtype)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=dtype)
    coefficients = torch.randn(TOKENS, generator=generator, dtype=dtype)
    coefficients[2] = 0.0
    # A class that occurs twice and one that never does.
    targets = torch.tensor([3, 0, 10, 3, 7, 1, 9])
    for leaf in (hidden, weight, coefficients):
        leaf.requires_grad_()
    return hidden, weight, coefficients, targets


def plain(hidden: Tensor, weight: Tensor, coefficients: Tensor, targets: Tensor) -> Tensor:
    losses = F.cross_entropy(hidden @ weight.t(), targets, reduction="none")
    return (coefficients * losses).sum()


def derivatives(loss: Tensor, leaves: tuple[Tensor, ...]) -> list[Tensor]:
    """The gradient, and the derivative of its product with three different directions."""
    first = torch.autograd.grad(loss, leaves, create_graph=True)
    gradients = list(first)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        directions = [torch.randn(g.shape, generator=generator, dtype=g.dtype) for g in first]
        gradients += torch.autograd.grad(first, leaves, directions, retain_graph=True)
    return gradients


@pytest.fixture(params=list(CHUNKS.values()), ids=list(CHUNKS))
def chunk_elements(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", request.param)
    return int(request.param)


@pytest.mark.usefixtures("chunk_elements")
@pytest.mark.parametrize("cache_bytes", CACHE.values(), ids=CACHE)
def test_derivatives_by_finite_differences(cache_bytes: int) -> None:
    *leaves, targets = make_problem()

    def loss(hidden: Tensor, weight: Tensor, coefficients: Tensor) -> Tensor:
        return weighted_linear_cross_entropy(hidden, weight, coefficients, targets, cache_bytes)

    assert torch.autograd.gradcheck(loss, leaves)
    assert torch.autograd.gradgradcheck(loss, leaves)


@pytest.mark.usefixtures("chunk_elements")
@pytest.mark.parametrize("factor", [1.0, -2.5])
@pytest.mark.parametrize("cache_bytes", CACHE.values(), ids=CACHE)
def test_derivatives_of_the_plain_formula(cache_bytes: int, factor: float) -> None:
    problem = make_problem()
    ours = derivatives(factor * weighted_linear_cross_entropy(*problem, cache_bytes), problem[:3])
    theirs = derivatives(factor * plain(*problem), problem[:3])
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.usefixtures("chunk_elements")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cached_residuals_do_not_change_a_bit(dtype: torch.dtype) -> None:
    cached, recomputed = (
        derivatives(weighted_linear_cross_entropy(*problem, cache_bytes), problem[:3])
        for problem, cache_bytes in ((make_problem(dtype), n) for n in CACHE.values())
    )
    for one, other in zip(cached, recomputed, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("frozen", [0, 1, 2])
@pytest.mark.parametrize("cache_bytes", CACHE.values(), ids=CACHE)
def test_an_input_that_is_not_differentiated(frozen: int, cache_bytes: int) -> None:
    problem = make_problem()
    problem[frozen].requires_grad_(False)
    leaves = tuple(leaf for i, leaf in enumerate(problem[:3]) if i != frozen)
    ours = derivatives(weighted_linear_cross_entropy(*problem, cache_bytes), leaves)
    for mine, expected in zip(ours, derivatives(plain(*problem), leaves), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("cache_bytes", CACHE.values(), ids=CACHE)
def test_no_tokens_at_all(cache_bytes: int) -> None:
    problem = make_problem()
    leaves = problem[:3]
    parts = (leaves[0][:0], leaves[1], leaves[2][:0], problem[3][:0])
    loss = weighted_linear_cross_entropy(*parts, cache_bytes)
    assert loss.item() == 0.0
    for derivative in derivatives(loss, leaves):
        assert not derivative.any()


@pytest.mark.usefixtures("chunk_elements")
def test_without_gradients() -> None:
    hidden, weight, coefficients, targets = make_problem()
    losses = linear_cross_entropy(hidden, weight, targets)
    expected = F.cross_entropy(hidden @ weight.t(), targets, reduction="none")
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-13, atol=1e-13)
    assert not losses.requires_grad
    with torch.no_grad():
        loss = weighted_linear_cross_entropy(hidden, weight, coefficients, targets)
        torch.testing.assert_close(loss, plain(hidden, weight, coefficients, targets))


def test_logits_that_would_overflow() -> None:
    hidden, weight, coefficients, targets = make_problem(torch.float32)
    problem = (hidden.detach().mul(1e4).requires_grad_(), weight, coefficients, targets)
    ours = derivatives(weighted_linear_cross_entropy(*problem), problem[:3])
    for mine, expected in zip(ours, derivatives(plain(*problem), problem[:3]), strict=True):
        assert torch.isfinite(mine).all()
        # Logits of 1e4 are rounded by 1e-3.
        scale = expected.detach().abs().max().item()
        torch.testing.assert_close(mine, expected, rtol=1e-2, atol=1e-2 * scale)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most elements of any tensor made meanwhile."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and func not in VIEWS:
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize(("cache_bytes", "whole"), [(0, False), (2**30, True)])
def test_no_tensor_of_tokens_times_vocabulary_unless_cached(
    cache_bytes: int, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 2 * VOCABULARY)
    problem = make_problem()
    with Largest() as largest:
        derivatives(weighted_linear_cross_entropy(*problem, cache_bytes), problem[:3])
    assert (largest.elements >= TOKENS * VOCABULARY) == whole


@pytest.mark.parametrize("cache_bytes", CACHE.values(), ids=CACHE)
def test_no_gradient_is_made_of_a_matrix_that_is_not_trained(
    cache_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 2 * VOCABULARY)
    problem = make_problem()
    # So few tokens that only the matrix and its like are this large.
    parts = (problem[0][:2], problem[1], problem[2][:2], problem[3][:2])
    for trained in (True, False):
        parts[1].requires_grad_(trained)
        leaves = parts[:3] if trained else (parts[0], parts[2])
        with Largest() as largest:
            derivatives(weighted_linear_cross_entropy(*parts, cache_bytes), leaves)
        assert (largest.elements > 2 * VOCABULARY) == trained


def test_residuals_are_cached_exactly_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 2 * VOCABULARY)
    needed = TOKENS * VOCABULARY * 8
    for cache_bytes, whole in ((needed - 1, False), (needed, True)):
        with Largest() as largest:
            weighted_linear_cross_entropy(*make_problem(), cache_bytes)
        assert (largest.elements >= TOKENS * VOCABULARY) == whole
