"""Scores of LoRA models are exact; the frozen base is neither stored nor differentiated."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine import CausalLMLoss, weighted_causal_lm_ce
from engine.models.module_loss import ModuleLoss
from engine.replay import linear_cross_entropy
from engine.replay.checkpointing import CheckpointingKind
from engine.replay.derivatives import GradientGraph
from engine.replay.state import Batch
from tests.exactness import oracle
from tests.exactness.adapted import Adapters, adapted_losses, adapted_model
from tests.exactness.attributing import Attribution, Problem, attribute, compare, make_trainer
from tests.exactness.cases import document_weights, make_data, make_queries, make_training
from tests.exactness.conftest import Agree
from tests.exactness.tiny_models import CONFIGS, tiny_model
from tests.pairwise import pairwise

CASES = [
    Adapters("gpt2 tied", ("c_attn",)),
    Adapters("gpt2 tied", ("c_fc", "mlp.c_proj"), rank=1),
    Adapters("gpt2 tied", ("wte",), rank=3),
    Adapters("gpt2 tied", ("lm_head",), rank=3),
    Adapters("gpt2 tied", ("wte", "wpe", "lm_head", "c_attn"), rank=5),
    Adapters("gpt2 two layers", ("h.1.attn.c_attn", "h.0.mlp.c_fc"), rank=3),
    Adapters("llama untied", ("q_proj", "v_proj"), rank=1),
    Adapters("llama untied", ("gate_proj", "down_proj"), rank=7),
    Adapters("llama untied", ("embed_tokens",)),
    Adapters("llama untied", ("lm_head", "embed_tokens"), rank=3),
    Adapters("llama two layers", ("all-linear",), rank=3),
    Adapters("gemma tied", ("embed_tokens", "o_proj"), rank=3),
    Adapters("gemma2 soft cap", ("all-linear",), rank=1),
    Adapters("phi head bias", ("lm_head", "dense"), rank=3),
]
SLOW = (1, 2, 3, 7, 8, 11)
"""Kinds of layers that other cases have too."""
SCHEDULES: list[CheckpointingKind] = ["all", "gradients", "sqrt", "log"]
OPTIMIZERS = ["adamw", "sgd", "adam"]


def problem_of(model: Any, **options: Any) -> Problem:
    data = make_data(options.pop("layout", "rows"))
    training = make_training(**{"clip": True, **options})
    return Problem(CausalLMLoss(model), data, training, data.token_weights(document_weights(data)))


def check(
    agree: Agree, group: str, adapters: Adapters, problem: Problem, how: Attribution, folder: Path
) -> None:
    start = oracle.leaves_of(adapted_model(adapters))
    truth = oracle.exact(
        adapted_losses(adapters),
        start,
        problem.data.tokens,
        problem.weights,
        problem.training,
        make_queries().tokens,
    )
    compare(agree, group, problem, how, attribute(problem, how, folder), truth)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, id=str(case), marks=pytest.mark.slow if number in SLOW else [])
        for number, case in enumerate(CASES)
    ],
)
def test_layers_of_all_kinds(number: int, agree: Agree, tmp_path: Path) -> None:
    adapters = CASES[number]
    loss = CausalLMLoss(adapted_model(adapters))
    assert loss.plain_head == (adapters.model not in ("gemma2 soft cap", "phi head bias"))
    problem = problem_of(
        loss.model,
        optimizer=OPTIMIZERS[number % 3],
        layout="packed" if number % 2 else "rows",
        epochs=2 if number % 3 else 1,
    )
    how = Attribution(SCHEDULES[number % 4], (None, 1, 2)[number % 3], fresh=number % 2 == 0)
    check(agree, "LoRA", adapters, problem, how, tmp_path)


@pytest.mark.parametrize(
    ("adapters", "optimizer"), [(CASES[0], "adamw"), (CASES[9], "adam"), (CASES[9], "sgd")]
)
def test_adapters_as_they_start(
    adapters: Adapters, optimizer: str, agree: Agree, tmp_path: Path
) -> None:
    adapters = replace(adapters, noise=0.0)
    model = adapted_model(adapters)
    zero = [name for name, p in model.named_parameters() if p.requires_grad and not p.any()]
    assert len(zero) == len(oracle.leaves_of(model)) // 2
    problem = problem_of(model, optimizer=optimizer)
    check(agree, "LoRA from its start", adapters, problem, Attribution("log"), tmp_path)


@pytest.mark.parametrize(
    ("adapters", "chunk_elements", "cache_bytes"),
    pairwise((CASES[3], CASES[6]), (1, 200), (0, 2**30)),
)
def test_head_in_chunks(
    adapters: Adapters,
    chunk_elements: int,
    cache_bytes: int,
    agree: Agree,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear_cross_entropy, "CHUNK_ELEMENTS", chunk_elements)
    problem = problem_of(adapted_model(adapters))
    loss = CausalLMLoss(adapted_model(adapters), cache_bytes)
    problem = replace(problem, loss=loss)
    check(agree, "LoRA, head in chunks", adapters, problem, Attribution(), tmp_path)


def test_models_that_peft_wrapped_itself(agree: Agree, tmp_path: Path) -> None:
    import peft

    adapters = replace(CASES[6], noise=0.0)
    settings = peft.LoraConfig(r=1, lora_alpha=3.5, target_modules=["q_proj", "v_proj"])
    wrapped = peft.get_peft_model(tiny_model("llama untied"), settings)
    same = adapted_model(adapters)
    prefix = "base_model.model."
    wrapped.load_state_dict({prefix + n: t for n, t in same.state_dict().items()}, strict=True)
    problem = problem_of(same)
    for loss in (CausalLMLoss(wrapped), wrapped):
        folder = tmp_path / type(loss).__name__
        wrapped.get_base_model().loss_function = weighted_causal_lm_ce
        check(agree, "LoRA wrapped by peft", adapters, replace(problem, loss=loss),
              Attribution(), folder)  # fmt: skip


class Made(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The shapes of all tensors that matrix products and embeddings' backwards made meanwhile."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(func)
        if isinstance(result, Tensor) and ("mm" in name or "embedding" in name):
            self.shapes |= {tuple(result.shape), tuple(reversed(result.shape))}
        return result


def weights_differentiated(model: Any) -> set[tuple[int, ...]]:
    """Shapes of the model's matrices, base and all, that a step's derivatives were formed of."""
    # A size that no weight has in common with the batch.
    ids = torch.arange(3 * 11).view(3, 11) % 41
    batch = Batch({"input_ids": ids, "labels": ids}, torch.ones(3, 11, dtype=torch.float64), 30)
    loss = ModuleLoss(CausalLMLoss(model))
    params = loss.parameters()
    directions = [{name: torch.ones_like(p) for name, p in params.items()}]
    sums = [{name: torch.zeros_like(p) for name, p in params.items()}]
    loss(params, batch)
    with Made() as recorder:
        GradientGraph(loss, params, batch).vjp(directions, sums)
    assert all(total.any() for total in sums[0].values())
    return recorder.shapes & {tuple(p.shape) for p in model.parameters() if p.ndim == 2}


@pytest.mark.parametrize("adapters", [CASES[0], CASES[1], CASES[10]], ids=str)
def test_no_derivative_in_a_frozen_weight(adapters: Adapters) -> None:
    model = adapted_model(adapters)
    adapter_shapes = {tuple(p.shape) for p in model.parameters() if p.requires_grad}
    assert weights_differentiated(model) <= adapter_shapes
    # The same of the model without adapters sees them all.
    plain = tiny_model(adapters.model)
    assert weights_differentiated(plain) == {
        tuple(p.shape) for p in plain.parameters() if p.ndim == 2
    }


@pytest.mark.parametrize("schedule", ["all", "gradients"])
def test_the_trajectory_holds_adapters_alone(schedule: CheckpointingKind, tmp_path: Path) -> None:
    model = adapted_model(CASES[4])
    wanted = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    problem = problem_of(model)
    trainer, start = make_trainer(problem.loss, problem.training, Attribution())
    trainer.train(start, problem.stream(), save_dir=tmp_path, checkpointing=schedule)
    elements = sum(shape.numel() for shape in wanted.values())
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) > 5
    for file in files:
        with safe_open(file, "pt") as tensors:
            sizes = {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118
        floats = sum(torch.Size(shape).numel() for shape in sizes.values())
        assert elements <= floats <= 3 * elements + 10, file
    measurement = [problem.stream().batch(0, torch.float64)]
    _, cotangent = trainer.evaluator.cotangent(start, measurement)
    assert {n.removeprefix("model."): t.shape for n, t in cotangent.params.items()} == wanted
    assert sum(leaf.numel() for group in cotangent.optimizer for leaf in group) == 2 * elements


def test_adapters_are_a_function_of_the_seed_alone() -> None:
    adapters = replace(CASES[4], noise=0.0)
    torch.manual_seed(1)
    one = oracle.leaves_of(adapted_model(adapters))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    other = oracle.leaves_of(adapted_model(adapters))
    assert torch.equal(before, torch.get_rng_state())
    another = oracle.leaves_of(adapted_model(adapters, seed=2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], another[name]) for name in one)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_computes_as_before_until_it_is_trained(name: str) -> None:
    ids = torch.arange(10)[None] + 3
    adapters = Adapters(name, ("all-linear",), noise=0.0)
    logits = (m(input_ids=ids).logits for m in (tiny_model(name), adapted_model(adapters)))
    assert torch.equal(*logits)
