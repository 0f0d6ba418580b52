"""Trainings whose scores rounding puts off by little, by much, or altogether."""

import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine import CausalLMLoss, DataStream, Scores, Trainer
from engine.models.float64 import compute_in_float64
from engine.models.lora import add_adapters
from engine.replay.optimizers import LearningRateSpec, OptimizerSpec, build_optimizer
from engine.runs.config import LoraConfig
from tests.exactness.tiny_models import tiny_model

ROWS, BATCH, TOKENS, QUERIES = 48, 4, 12, 3


@dataclass(frozen=True)
class Case:
    """A training: of a language model, of adapters of it, or of a perceptron."""

    model: str
    optimizer: OptimizerSpec
    steps: int = 200
    is_small: bool = False
    """Whether it is quick enough for a test."""

    @property
    def name(self) -> str:
        """As it is printed."""
        spec = self.optimizer
        root = "" if spec.name == "sgd" else f", eps_root {spec.eps_root:g}"
        momentum = f", momentum {spec.momentum:g}" if spec.momentum else ""
        rate = f"{spec.name} {spec.learning_rate:g}{momentum}{root}"
        return f"{self.model}, {rate}, {self.steps} steps"


def _adamw(rate: float, eps_root: float = 1e-8) -> OptimizerSpec:
    return OptimizerSpec("adamw", rate, eps_root=eps_root, weight_decay=0.01)


def _sgd(rate: float, momentum: float = 0.0) -> OptimizerSpec:
    return OptimizerSpec("sgd", rate, momentum=momentum)


EPS_ROOTS = (1e-16, 1e-12, 1e-8, 1e-6)
CASES = [
    Case("perceptron", _sgd(0.1), is_small=True),
    Case("perceptron", _sgd(0.5), is_small=True),
    Case("perceptron", _adamw(1e-3)),
    Case("perceptron", _adamw(1e-2), is_small=True),
    Case("perceptron", _adamw(3e-2, 1e-12)),
    Case("perceptron", _adamw(1e-1, 1e-12), is_small=True),
    *(Case("adapters", _adamw(1e-2, root), 40, is_small=True) for root in EPS_ROOTS),
    *(Case("adapters", _adamw(rate, root)) for rate in (1e-3, 1e-2) for root in EPS_ROOTS),
    *(Case("gpt2", _sgd(rate)) for rate in (0.05, 0.3, 1.0)),
    *(Case("gpt2", _sgd(rate, 0.9)) for rate in (0.1, 0.3)),
    *(Case("gpt2", _adamw(rate, root)) for rate in (1e-3, 1e-2) for root in (1e-8, 1e-6)),
]


class Perceptron(nn.Module):
    """Two hidden layers."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(
                nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4)
            )
        self.to(dtype)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.net(x), y, reduction="none")


def estimated_and_true(case: Case) -> tuple[float, float]:
    """The relative error of float32's scores, median over queries: as estimated, and as it is.

    An error as large as the scores is all that an estimate can say.
    """
    ours, exact = (_scores(case, dtype) for dtype in (torch.float32, torch.float64))
    difference = (ours.weights.double() - exact.weights.double()).flatten(1).norm(dim=1)
    true = (difference / exact.weights.double().flatten(1).norm(dim=1)).clamp(max=1.0)
    return ours.rounding.median().item(), true.median().item()


def _scores(case: Case, dtype: torch.dtype) -> Scores:
    random = np.random.default_rng(100)
    order = [random.choice(ROWS, BATCH, replace=False) for _ in range(case.steps)]
    rows = _points if case.model == "perceptron" else _texts
    stream = DataStream(rows(ROWS, 0, dtype), BATCH, order=order)
    rate = LearningRateSpec("constant", case.steps)
    optimizer = build_optimizer(case.optimizer, rate)
    trainer, start = Trainer.initialize(_model(case, dtype), optimizer, elementwise=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer.train(start, stream, save_dir=folder, checkpointing="all")
        return trainer.backward(folder, stream, DataStream(rows(QUERIES, 77, dtype), 1))


def _model(case: Case, dtype: torch.dtype) -> nn.Module:
    """The same numbers in either precision."""
    if case.model == "perceptron":
        return Perceptron(dtype)
    model: Any = tiny_model("gpt2 tied", torch.float32)
    if case.model == "adapters":
        adapters = LoraConfig(rank=8, alpha=16, target_modules=("c_attn",))
        add_adapters(model, adapters, 1, "gpt2")
    if dtype == torch.float64:
        model = model.double()
        compute_in_float64(model)
    return CausalLMLoss(model)


def _points(count: int, seed: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 8)).astype(np.float32)
    turned = np.tanh(x @ np.random.default_rng(9).normal(size=(8, 4)))
    y = (turned + 0.3 * random.normal(size=(count, 4))).argmax(1)
    kind = np.float64 if dtype == torch.float64 else np.float32
    return [{"x": row.astype(kind), "y": np.int64(label)} for row, label in zip(x, y, strict=True)]


def _texts(count: int, seed: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Sequences that count in steps, with a mistake now and then."""
    random, texts = np.random.default_rng(seed), []
    for _ in range(count):
        first, by = random.integers(0, 38), random.integers(1, 7)
        noise = (random.random(TOKENS) < 0.1) * random.integers(0, 38, TOKENS)
        texts.append((first + by * np.arange(TOKENS) + noise) % 38 + 3)
    return [{"input_ids": ids, "labels": ids} for ids in texts]
