"""Scores are exact for other models, for every way to compute the loss, and for unusual options."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from engine import CausalLMLoss, weighted_causal_lm_ce
from engine.models.float64 import compute_in_float64
from engine.replay import linear_cross_entropy
from tests.exactness.attributing import (
    Attribution,
    Problem,
    check,
    compare,
    exact_language_model,
    make_trainer,
    query_streams,
)
from tests.exactness.cases import document_weights, make_data, make_training
from tests.exactness.conftest import Agree
from tests.exactness.tiny_models import CONFIGS, UNUSUAL, tiny_model

OWN_HEAD = {"gemma2 soft cap", "phi head bias"}
FAMILIES = [name for name in CONFIGS if name not in ("gpt2 tied", "gpt2 untied")]
TURNS = [
    ("adamw", "one_cycle", True, "rows", Attribution("log", 2, "none")),
    ("sgd", "constant", True, "packed", Attribution("gradients", 1, "contrast")),
    ("adam", "constant", False, "rows", Attribution("sqrt", None, "mean", fresh=True)),
]


def problem_of(loss: nn.Module, **options: Any) -> Problem:
    """Documents of many lengths one a row, AdamW, clipping; data weights for tokens."""
    data = make_data(options.pop("layout", "rows"))
    training = make_training(**{"clip": True, **options})
    return Problem(loss, data, training, data.token_weights(document_weights(data)))


@pytest.mark.parametrize(
    ("name", "turn"),
    [
        pytest.param(
            *(name, turn),
            id=f"{name}-{turn[0]}",
            marks=[] if (number + index) % 3 == 0 else pytest.mark.slow,
        )
        for number, name in enumerate(FAMILIES)
        for index, turn in enumerate(TURNS)
    ],
)
def test_model_families(name: str, turn: tuple[Any, ...], agree: Agree, tmp_path: Path) -> None:
    optimizer, rate, clip, layout, how = turn
    model = tiny_model(name)
    loss = CausalLMLoss(model)
    assert loss.plain_head == (name not in OWN_HEAD)
    problem = problem_of(loss, optimizer=optimizer, rate=rate, clip=clip, layout=layout)
    check(agree, name, model, problem, how, tmp_path)


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_models(name: str, agree: Agree, tmp_path: Path) -> None:
    judge = tiny_model(name)
    # One by one; fused experts do not compute in float64 at all.
    judge.config._experts_implementation = "eager"
    problem = problem_of(CausalLMLoss(tiny_model(name)), optimizer="sgd")
    check(agree, name, judge, problem, Attribution("log", 2), tmp_path)


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        ("gpt2 tied", "sdpa"),
        ("gpt2 tied", None),
        ("llama untied", "sdpa"),
        ("llama untied", "flex_attention"),
    ],
)
def test_attention_that_is_not_eager(
    name: str, attention: str | None, agree: Agree, tmp_path: Path
) -> None:
    kind, options = CONFIGS[name]
    judge, chosen = tiny_model(name), {"attn_implementation": attention} if attention else {}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **options), dtype=torch.float64, **chosen
    )
    model.load_state_dict(judge.state_dict())
    compute_in_float64(model)
    assert model.config._attn_implementation == (attention or "sdpa")
    problem = problem_of(CausalLMLoss(model.eval()), optimizer="sgd")
    check(agree, f"attention {attention}", judge, problem, Attribution("log"), tmp_path)


def test_a_soft_cap_that_small_logits_hardly_feel_is_not_left_out(
    agree: Agree, tmp_path: Path
) -> None:
    model = tiny_model("gemma2 soft cap")
    # Logits of about 1 under a cap of 500 are bent by about 1e-6 of themselves.
    model.config.final_logit_softcapping = 500.0
    loss = CausalLMLoss(model)
    check(agree, "soft cap hardly felt", model, problem_of(loss), Attribution(), tmp_path)


def plain_transformers(model: nn.Module) -> nn.Module:
    model.loss_function = weighted_causal_lm_ce  # type: ignore[assignment]
    return model


LOSSES: dict[str, tuple[Callable[[Any], nn.Module], int]] = {
    "cached": (CausalLMLoss, 2**23),
    "recomputed": (lambda model: CausalLMLoss(model, cache_bytes=0), 2**23),
    "cached, in chunks": (CausalLMLoss, 200),
    "recomputed, in chunks": (lambda model: CausalLMLoss(model, cache_bytes=0), 200),
    "recomputed, a token at a time": (lambda model: CausalLMLoss(model, cache_bytes=0), 1),
    "transformers' own": (plain_transformers, 2**23),
}


@pytest.mark.parametrize(
    ("way", "name", "micro_batch_size"),
    [
        ("cached, in chunks", "gpt2 tied", 2),
        ("recomputed, a token at a time", "gpt2 tied", None),
        ("recomputed, in chunks", "llama untied", 2),
        ("transformers' own", "llama untied", None),
        *(
            pytest.param(*values, marks=pytest.mark.slow)
            for values in product(LOSSES, ("gpt2 tied", "llama untied"), (2, None))
        ),
    ],
)
def test_ways_to_compute_the_loss(
    way: str,
    name: str,
    micro_batch_size: int | None,
    agree: Agree,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrap, chunk_elements = LOSSES[way]
    monkeypatch.setattr(linear_cross_entropy, "CHUNK_ELEMENTS", chunk_elements)
    model = tiny_model(name)
    problem = problem_of(wrap(model))
    how = Attribution("log", micro_batch_size, "mean")
    check(agree, f"loss {way}", model, problem, how, tmp_path)


def test_weights_of_single_tokens(agree: Agree, tmp_path: Path) -> None:
    model = tiny_model("gpt2 tied")
    problem = problem_of(CausalLMLoss(model), layout="packed")
    generator = torch.Generator().manual_seed(1)
    # Not even the sign has to be that of a training anybody would run.
    weights = torch.randn(problem.weights.shape, generator=generator, dtype=torch.float64)
    problem = replace(problem, weights=weights)
    check(agree, "weights of single tokens", model, problem, Attribution("log", 2), tmp_path)


def test_clipping_that_is_active_in_some_steps_only(agree: Agree, tmp_path: Path) -> None:
    model = tiny_model("gpt2 tied")
    problem = problem_of(CausalLMLoss(model), clip=False)
    norms: list[float] = []

    def observe(event: str, /, **facts: Any) -> None:
        if event == "train_step":
            norms.append(facts["gradient_norm"])

    trainer, start = make_trainer(problem.loss, problem.training, Attribution())
    trainer.train(start, problem.stream(), observer=observe)
    middle = sum(sorted(norms)[2:4]) / 2
    problem = replace(problem, training=replace(problem.training, max_grad_norm=middle))
    norms.clear()
    trainer, start = make_trainer(problem.loss, problem.training, Attribution())
    trainer.train(start, problem.stream(), observer=observe)
    assert min(norms) < middle < max(norms)
    check(agree, "clipping in some steps", model, problem, Attribution(), tmp_path)


@pytest.mark.parametrize("frozen", ["wte", "h.0.attn", pytest.param("ln_", marks=pytest.mark.slow)])
def test_frozen_parameters(frozen: str, agree: Agree, tmp_path: Path) -> None:
    model = tiny_model("gpt2 tied")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen not in name)
    problem = problem_of(CausalLMLoss(model))
    check(agree, "frozen parameters", model, problem, Attribution("log"), tmp_path)


def test_queries_as_a_stream(agree: Agree, tmp_path: Path) -> None:
    model = tiny_model("llama untied")
    problem = problem_of(CausalLMLoss(model), epochs=1)
    stream, (queries, _) = problem.stream(), query_streams()
    trainer, start = make_trainer(problem.loss, problem.training, Attribution())
    trainer.train(start, stream, save_dir=tmp_path)
    truth = exact_language_model(model, problem.data, problem.weights, problem.training)
    reductions: list[Any] = ["none", "mean", "sum"]
    for reduction, queries_per_pass in zip(reductions, (1, 2, 5), strict=True):
        ours = trainer.backward(
            tmp_path, stream, queries, reduction=reduction, queries_per_pass=queries_per_pass
        )
        how = Attribution(reduction=reduction)
        compare(agree, "queries as a stream", problem, how, ours, truth)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_trainer_that_trains_twice(optimizer: str, agree: Agree, tmp_path: Path) -> None:
    model = tiny_model("gpt2 tied")
    problem = problem_of(CausalLMLoss(model), optimizer=optimizer)
    how, stream = Attribution("log"), problem.stream()
    trainer, start = make_trainer(problem.loss, problem.training, how)
    trainer.train(start, stream)
    trainer.train(start, stream, save_dir=tmp_path, checkpointing="log")
    ours = trainer.backward(tmp_path, stream, query_streams()[0])
    truth = exact_language_model(model, problem.data, problem.weights, problem.training)
    compare(agree, "a trainer that trains twice", problem, how, ours, truth)
