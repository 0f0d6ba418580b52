"""Models whose scores would not be derivatives of their training are refused before it."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchopt
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from engine import CausalLMLoss, DataStream, Trainer, weighted_causal_lm_ce
from engine.models.checked_derivatives import DerivativeCheck, check_derivatives
from engine.models.layers import layers_of
from engine.models.module_loss import ModuleLoss
from engine.models.module_tensors import ModelError
from engine.runs.errors import DerivativeError
from tests.exactness.tiny_models import tiny_model

torch.set_num_threads(1)
RANDOM = np.random.default_rng(0)
ROWS = [{"x": RANDOM.normal(size=6).astype(np.float32), "y": row % 3} for row in range(8)]
TEXTS = [{"input_ids": np.array([3, 7, 3, 9, 3, 7, 12, 9]) + row} for row in range(4)]
FLOAT64 = [{**row, "x": row["x"].astype(np.float64)} for row in ROWS]
Bend = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """Two layers with something between them."""

    def __init__(self, between: Bend | nn.Module = torch.tanh) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.between = between

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.b(self.between(torch.tanh(self.a(x)))), y, reduction="none")


class Linear(nn.Module):
    """A loss without any curvature."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ self.scale


class Words(nn.Module):
    """A language model of one embedding."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.e, self.b = nn.Embedding(20, 4, **options), nn.Linear(4, 20)

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        logits = self.b(torch.tanh(self.e(input_ids)))
        return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)


def under_no_grad(h: Tensor) -> Tensor:
    with torch.no_grad():
        norm = h.norm(dim=-1, keepdim=True)
    return h / norm


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0].cos()


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


class Detaching(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return h / h.detach().norm(dim=-1, keepdim=True)


class Evaluated(Net):
    """Exact while it trains, with a stop-gradient in what is measured."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        h = h if self.training else h * h.detach()
        return F.cross_entropy(self.b(h), y, reduction="none")


class Checkpointed(Net):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = checkpoint(lambda x: torch.tanh(self.a(x)), x, use_reentrant=False)
        return F.cross_entropy(self.b(h), y, reduction="none")


def normed(norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
    module = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.a = norm(module.a)  # type: ignore[assignment]
    return module


def referring() -> nn.Module:
    module = Net()
    weight = module.b.weight
    module.between = lambda h: h * weight.square().sum()
    return module


def hooked(hook: Callable[[Net], Any]) -> nn.Module:
    module = Net()
    hook(module)
    return module


FAULTS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no_grad": (lambda: Net(under_no_grad), "second derivatives of Net"),
    "detach": (lambda: Net(Detaching()), "second derivatives of between (Detaching)"),
    "data": (lambda: Net(lambda h: h * h.data), "second derivatives"),
    "a small share": (lambda: Net(lambda h: h + 1e-4 * h * h.detach()), "second derivatives"),
    "straight-through": (lambda: Net(lambda h: h + (h.round() - h).detach()), "second derivatives"),
    "reversed gradient": (lambda: Net(Reverse.apply), "second derivatives"),
    "once_differentiable": (lambda: Net(Once.apply), "differentiated twice (Once)"),
    "weight_norm": (lambda: normed(nn.utils.parametrizations.weight_norm), "_WeightNorm"),
    "old weight_norm": (lambda: normed(nn.utils.weight_norm), "second derivatives"),
    "max_norm": (lambda: Words(max_norm=0.5), "max_norm of e (Embedding)"),
    "scale_grad_by_freq": (lambda: Words(scale_grad_by_freq=True), "scale_grad_by_freq of e"),
    "hook": (lambda: hooked(lambda m: m.a.weight.register_hook(torch.sign)), "register_hook"),
    "post hook": (
        lambda: hooked(lambda m: m.a.weight.register_post_accumulate_grad_hook(print)),
        "register_post_accumulate_grad_hook",
    ),
    "module hook": (
        lambda: hooked(lambda m: m.a.register_full_backward_hook(print)),
        "a (Linear) has a hook on gradients (register_full_backward_hook)",
    ),
    "module pre-hook": (
        lambda: hooked(lambda m: m.a.register_full_backward_pre_hook(print)),
        "register_full_backward_pre_hook",
    ),
    "checkpoint": (Checkpointed, "replacing the model's parameters"),
    "measure": (Evaluated, "the measured loss"),
}
EXACT: dict[str, Callable[[], nn.Module]] = {
    "tanh": Net,
    "no curvature": Linear,
    "relu": lambda: Net(torch.relu),
    "squared relu": lambda: Net(lambda h: torch.relu(h).square()),
    "maximum": lambda: Net(lambda h: h * h.max(-1, keepdim=True)[0]),
    "best two": lambda: Net(lambda h: h * (h >= h.topk(2, dim=-1)[0][:, 1:])),
    "batch norm": lambda: Net(nn.BatchNorm1d(8)),
    "cumulative batch norm": lambda: Net(nn.BatchNorm1d(8, momentum=None)),
    "batch norm in eval mode": lambda: Net(nn.BatchNorm1d(8)).eval(),
    "padding": lambda: Words(padding_idx=3),
}


def rows_of(module: nn.Module) -> list[dict[str, Any]]:
    return [{**r, "labels": r["input_ids"]} for r in TEXTS] if isinstance(module, Words) else ROWS


def checked(module: nn.Module, rows: list[Any] | None = None, **options: Any) -> DerivativeCheck:
    rows = rows_of(module) if rows is None else rows
    stream = DataStream(rows, len(rows))
    dtype = next(p.dtype for p in module.parameters() if p.requires_grad)
    layers = options.pop("layers", ())
    memory = options.pop("memory", 10**9)
    return check_derivatives(ModuleLoss(module, **options), stream.batch(0, dtype), memory, layers)


def trained(module: nn.Module, weights: Tensor | None = None, **options: Any) -> Any:
    """A trainer after two epochs, its last state, and the stream."""
    rows = rows_of(module)
    trainer, start = Trainer.initialize(module, torchopt.sgd(0.3), **options)
    order = [np.arange(0, len(rows), 2), np.arange(1, len(rows), 2)]
    stream = DataStream(rows, 4, order=[*order, *order])
    stream.weights = stream.weights if weights is None else weights
    return trainer, start, stream


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused_before_the_first_step(fault: str) -> None:
    make, words = FAULTS[fault]
    torch.manual_seed(0)
    trainer, start, stream = trained(make())
    steps: list[str] = []
    with pytest.raises(DerivativeError) as error:
        trainer.train(start, stream, observer=lambda event, **facts: steps.append(event))
    assert words in str(error.value) and 'force=["derivative"]' in str(error.value)
    assert not steps


def test_a_parameter_used_from_elsewhere_is_refused() -> None:
    trainer, start, stream = trained(referring())
    with pytest.raises(ModelError, match=r"reads its parameter b\.weight through a reference"):
        trainer.train(start, stream)


@pytest.mark.parametrize("kind", EXACT)
def test_exact_models_pass(kind: str) -> None:
    torch.manual_seed(0)
    module = EXACT[kind]()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    generator = torch.get_rng_state()
    check = checked(module)
    assert check.passed and check.dtype == "float64" and check.error is not None
    assert check.error < 1e-7
    assert torch.equal(generator, torch.get_rng_state())
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_language_models_pass_by_layer_too(dtype: torch.dtype) -> None:
    for name in ("gpt2 tied", "llama two layers", "gemma2 soft cap"):
        loss = CausalLMLoss(tiny_model(name, dtype))
        check = checked(loss, TEXTS, layers=layers_of(loss))
        assert check.passed and check.error is not None and check.error < 1e-6, name


def test_a_model_that_does_not_fit_twice_is_compared_as_it_is() -> None:
    torch.manual_seed(0)
    check = checked(Net(), memory=0)
    assert check.passed and check.dtype == "float32" and check.bound == pytest.approx(0.005)
    assert not checked(Net(Detaching()), memory=0).passed
    assert checked(Linear(), memory=0).passed
    check = checked(CausalLMLoss(tiny_model("gpt2 tied", torch.float32)), TEXTS, memory=0)
    assert check.passed and check.dtype == "float32"


def test_dropout_that_is_a_function_of_the_step_passes() -> None:
    torch.manual_seed(0)
    assert checked(Net(nn.Dropout(0.3)), dropout_seed=3).passed


def test_the_innermost_part_is_named() -> None:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3)]
    blocks[1].append(nn.ModuleDict({"norm": Detaching()})["norm"])
    check = checked(Net(nn.Sequential(*blocks)))
    assert "second derivatives of between.1.2 (Detaching) differ" in check.problem


def test_forced_it_trains_after_a_warning() -> None:
    torch.manual_seed(0)
    trainer, start, stream = trained(Net(under_no_grad), force=["derivative"])
    heard: list[str] = []

    def observe(event: str, /, **facts: Any) -> None:
        heard.extend([facts["message"]] if event == "warning" else [])

    assert trainer.train(start, stream, observer=observe).step == len(stream)
    assert len(heard) == 1 and "do not trust the scores" in heard[0]
    assert trainer.derivative is not None and not trainer.derivative.passed


def test_a_trainer_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    trainer, start, stream = trained(Net())
    trainer.train(start, stream)
    monkeypatch.setattr("engine.training.trainer.check_derivatives", None)
    trainer.train(start, stream)


def relative_error(module: nn.Module, folder: Path) -> float:
    """Of the scores of one query along two directions, against central differences."""
    initial = {name: t.clone() for name, t in module.state_dict().items()}
    query = DataStream(FLOAT64[:1], 1)

    def run(weights: Tensor | None, where: Path) -> Any:
        module.load_state_dict(initial)
        trainer, start = Trainer.initialize(module, torchopt.sgd(0.3))
        trainer.checks_derivatives = False
        stream = DataStream(FLOAT64, 4)
        stream.weights = stream.weights if weights is None else weights
        trainer.train(start, stream, save_dir=where, checkpointing="all")
        return trainer.backward(where, stream, query)

    scores = run(None, folder / "scores").weights[0]
    generator = torch.Generator().manual_seed(5)
    directions = torch.randn(2, len(FLOAT64), generator=generator, dtype=torch.float64)
    ends = [
        [
            run(1 + sign * 1e-5 * direction, folder / f"{number}{sign}").query_losses[0]
            for sign in (1, -1)
        ]
        for number, direction in enumerate(directions)
    ]
    true = torch.stack([(high - low) / 2e-5 for high, low in ends])
    return ((directions @ scores - true).norm() / true.norm()).item()


def test_retrainings_agree_with_the_verdict(tmp_path: Path) -> None:
    for number, (between, right) in enumerate(
        [(torch.tanh, True), (torch.relu, True), (under_no_grad, False), (Reverse.apply, False)]
    ):
        torch.manual_seed(0)
        module = Net(between).double()
        assert checked(module, FLOAT64).passed is right
        error = relative_error(module, tmp_path / str(number))
        assert error < 1e-5 if right else error > 1e-3


def by_itself(model: Any) -> Any:
    model.loss_function = weighted_causal_lm_ce
    return model


@pytest.mark.parametrize("wrapped", [CausalLMLoss, by_itself])
def test_a_tied_embedding_is_differentiated_in_its_padding_row(
    wrapped: Callable[[Any], nn.Module], tmp_path: Path
) -> None:
    model = tiny_model("llama tied")
    padding = model.get_input_embeddings().padding_idx
    rows = [{"input_ids": np.array([0, 5, 0, 7, 9 + row, 0])} for row in range(4)]
    loss = wrapped(model)
    assert checked(loss, rows).passed
    assert model.get_input_embeddings().padding_idx == padding == 0

    def phi(weights: Tensor) -> Any:
        trainer, start = Trainer.initialize(loss, torchopt.sgd(0.5))
        stream = DataStream(rows, 2)
        stream.weights = weights
        where = tmp_path / str(len(list(tmp_path.iterdir())))
        trainer.train(start, stream, save_dir=where, checkpointing="all")
        return trainer.backward(where, stream, DataStream(rows[:1], 1))

    ones = torch.ones(4, dtype=torch.float64)
    change = torch.tensor([1.0, -2.0, 0.5, 1.0], dtype=torch.float64)
    high, low = (phi(ones + sign * 1e-4 * change).query_losses[0] for sign in (1, -1))
    assert (phi(ones).weights[0] @ change).item() == pytest.approx(
        ((high - low) / 2e-4).item(), rel=1e-6
    )
