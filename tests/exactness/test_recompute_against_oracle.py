"""Derivatives layer by layer: exact, the same bits as from one graph, one layer's memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine import CausalLMLoss, Trainer
from engine.cost.memory_probe import SavedTensorCounter, layered_graph_bytes
from engine.models import layers as layers_module
from engine.models.layers import LayeredModuleLoss, checked_layers, layers_of
from engine.models.module_loss import ModuleLoss
from engine.replay.checkpointed_hvp import CheckpointedHVP
from engine.replay.derivatives import GradientGraph, first_derivatives, second_derivatives
from engine.replay.optimizers import build_optimizer
from engine.replay.ranks import SINGLE_RANK
from engine.replay.state import Batch, Params, TrainState
from engine.runs.errors import UsageError
from tests.exactness.adapted import Adapters, adapted_losses, adapted_model
from tests.exactness.attributing import Attribution, attribute, check, compare
from tests.exactness.cases import make_queries
from tests.exactness.conftest import Agree
from tests.exactness.oracle import exact, leaves_of
from tests.exactness.test_models_against_oracle import problem_of
from tests.exactness.tiny_models import CONFIGS, VOCABULARY, tiny_model

FAMILIES = list(CONFIGS)
QUICK = ("gpt2 two layers", "phi head bias")
HOW = Attribution("sqrt", 2, recompute=True)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FAMILIES],
)
def test_model_families(name: str, agree: Agree, tmp_path: Path) -> None:
    model = tiny_model(name)
    check(agree, "recomputed", model, problem_of(CausalLMLoss(model)), HOW, tmp_path)


def test_adapters(agree: Agree, tmp_path: Path) -> None:
    adapters = Adapters("llama two layers", ("q_proj", "down_proj"))
    model = adapted_model(adapters)
    problem = problem_of(CausalLMLoss(model))
    ours = attribute(problem, HOW, tmp_path)
    start, queries = leaves_of(model), make_queries().tokens
    truth = exact(
        adapted_losses(adapters), start, problem.data.tokens, problem.weights, problem.training,
        queries,
    )  # fmt: skip
    compare(agree, "recomputed", problem, HOW, ours, truth)


def batch_of(dtype: torch.dtype, rows: int = 3, tokens: int = 9) -> Batch:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, VOCABULARY, (rows, tokens), generator=generator)
    weights = torch.rand(rows, tokens, generator=generator, dtype=dtype)
    return Batch({"input_ids": ids, "labels": ids}, weights, rows * (tokens - 1))


def derivatives(loss: Any, params: Params, batch: Batch) -> list[Tensor]:
    """The gradient, and second derivatives and scores along two directions."""
    directions = [{n: p.sin() for n, p in params.items()}, {n: p.cos() for n, p in params.items()}]
    sums = [{name: torch.zeros_like(p) for name, p in params.items()} for _ in directions]
    state = TrainState(0, params, [])
    _, grads, _ = first_derivatives(loss, state, params, batch)
    scores = second_derivatives(loss, state, batch, directions, sums)
    return [*grads.values(), scores, *(total for of in sums for total in of.values())]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("gpt2 two layers", torch.float64), *((name, torch.float32) for name in FAMILIES)],
)
def test_the_same_bits_as_one_graph(name: str, dtype: torch.dtype) -> None:
    model = tiny_model(name, dtype)
    whole, batch = ModuleLoss(CausalLMLoss(model)), batch_of(dtype)
    cut, params = LayeredModuleLoss(whole, layers_of(model)), whole.parameters()
    before = [module.forward for module in model.modules()]
    results = derivatives(cut, params, batch)
    assert all(
        torch.equal(a, b) for a, b in zip(results, derivatives(whole, params, batch), strict=True)
    )
    assert before == [module.forward for module in model.modules()]


def test_one_layers_graph_is_alive_at_a_time() -> None:
    results = []
    for count in (2, 4):
        model = tiny_model("gpt2 tied")
        block = model.transformer.h[0]
        model.transformer.h.extend(type(block)(model.config, n) for n in range(1, count))
        model.to(torch.float64)
        loss = ModuleLoss(CausalLMLoss(model.eval()))
        cut, batch = LayeredModuleLoss(loss, layers_of(model)), batch_of(torch.float64)
        saved = layered_graph_bytes(
            cut, loss.parameters(), batch, SINGLE_RANK, loss.module.parameters()
        )
        # The values before, between and behind the layers.
        assert saved.query == (count + 1) * 3 * 9 * 16 * 8
        results.append(saved.shared - saved.query)
    assert results[0] == results[1] > 0


def test_an_unused_graph_is_freed() -> None:
    loss = ModuleLoss(CausalLMLoss(tiny_model("llama two layers")))
    saved = SavedTensorCounter(SINGLE_RANK, [])
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        graph: Any = GradientGraph(loss, loss.parameters(), batch_of(torch.float64))
        assert saved.now > 0
        graph = None
    assert graph is None and saved.now == 0


class Remembering(nn.Module):
    """A layer that leaves something behind for the next one."""

    def __init__(self, layer: nn.Module, memory: list[Tensor]) -> None:
        super().__init__()
        self.layer, self.memory = layer, memory

    def forward(self, hidden: Tensor, *others: Any, **named: Any) -> Tensor:
        output: Tensor = self.layer(hidden, *others, **named)
        if self.memory:
            output = output + self.memory.pop()
        else:
            self.memory.append(hidden.tanh())
        return output


def test_layers_that_cannot_be_cut_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2 two layers")
    assert len(checked_layers(CausalLMLoss(model), "here")) == 2
    memory: list[Tensor] = []
    model.transformer.h = nn.ModuleList(Remembering(h, memory) for h in model.transformer.h)
    monkeypatch.setattr(layers_module, "layers_of", lambda loss: list(model.transformer.h))
    with pytest.raises(UsageError, match=r"the layers of here cannot be recomputed"):
        checked_layers(CausalLMLoss(model), "here")
    monkeypatch.setattr(layers_module, "layers_of", lambda loss: [])
    with pytest.raises(UsageError, match="here does not name its layers"):
        checked_layers(CausalLMLoss(model), "here")


def test_layers_that_draw_random_numbers_are_refused() -> None:
    loss, spec = CausalLMLoss(tiny_model("gpt2 tied")), problem_of(CausalLMLoss(nn.Module()))
    optimizer = build_optimizer(spec.training.optimizer, spec.training.rate)
    with pytest.raises(ValueError, match="random numbers"):
        Trainer.initialize(
            loss, optimizer, dropout_seed=1, activation_checkpointing=layers_of(loss)
        )


def test_what_is_used_up_frees_its_values() -> None:
    model = tiny_model("gpt2 two layers")
    loss = ModuleLoss(CausalLMLoss(model))
    layers = CheckpointedHVP(
        LayeredModuleLoss(loss, layers_of(model)), loss.parameters(), batch_of(torch.float64)
    )
    assert layers.bytes_between == 3 * 3 * 9 * 16 * 8
    assert all(grad is not None for grad in layers.gradient())
