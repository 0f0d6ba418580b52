"""In float32, scores repeat to the bit, whatever the checkpointing schedule."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args
from weakref import ref

import pytest
import torch
from torch import nn

from engine import CausalLMLoss, weighted_causal_lm_ce
from engine.replay.checkpointing import CheckpointingKind
from engine.replay.optimizer_stage import OptimizerStage
from engine.replay.state import Params
from engine.training.query_loss import query_losses_of
from tests.exactness.attributing import Attribution, Problem, attribute, make_trainer, query_streams
from tests.exactness.cases import Layout, document_weights, make_data, make_training
from tests.exactness.tiny_models import tiny_model
from tests.pairwise import pairwise

SCHEDULES = get_args(CheckpointingKind)


def fused(model: Any) -> nn.Module:
    return CausalLMLoss(model)


def recomputed(model: Any) -> nn.Module:
    return CausalLMLoss(model, cache_bytes=0)


def transformers(model: Any) -> nn.Module:
    model.loss_function = weighted_causal_lm_ce
    wrapped: nn.Module = model
    return wrapped


WAYS = {"fused": fused, "recomputed": recomputed, "transformers": transformers}


def problem_in_float32(
    name: str, way: str, optimizer: str = "adamw", layout: Layout = "rows"
) -> Problem:
    data = make_data(layout)
    training = make_training(optimizer, "one_cycle", clip=True, epochs=2)
    loss = WAYS[way](tiny_model(name, torch.float32))
    return Problem(loss, data, training, data.token_weights(document_weights(data)))


NAMES = ("llama untied", "gpt2 tied")
OPTIMIZERS = (("adamw", 2), ("sgd", None))
"""Each with a micro-batch size."""


@pytest.mark.parametrize(
    ("name", "way", "optimizer", "schedules"),
    [
        *pairwise(NAMES, tuple(WAYS), OPTIMIZERS, [SCHEDULES[:2], SCHEDULES[2:]]),
        *(
            pytest.param(*values, SCHEDULES, marks=pytest.mark.slow)
            for values in product(NAMES, WAYS, OPTIMIZERS)
        ),
    ],
)
def test_every_schedule_gives_the_same_bits(
    name: str,
    way: str,
    optimizer: tuple[str, int | None],
    schedules: tuple[CheckpointingKind, ...],
    tmp_path: Path,
) -> None:
    problem = problem_in_float32(name, way, optimizer[0])
    how = Attribution(micro_batch_size=optimizer[1])
    first = attribute(problem, how, tmp_path / "first")
    assert first.weights.dtype == torch.float32
    assert torch.isfinite(first.weights).all() and first.weights.any()
    for schedule in schedules:
        # "all" is repeated with another module, trainer and folder.
        again = replace(problem_in_float32(name, way, optimizer[0]), weights=problem.weights)
        ours = attribute(again, replace(how, schedule=schedule), tmp_path / schedule)
        assert torch.equal(ours.weights, first.weights), schedule
        assert torch.equal(ours.steps, first.steps), schedule
        assert torch.equal(ours.query_losses, first.query_losses), schedule


@pytest.mark.parametrize(("optimizer", "schedule"), [("adamw", "log"), ("sgd", "gradients")])
def test_a_new_trainer_gives_the_same_bits(
    optimizer: str, schedule: CheckpointingKind, tmp_path: Path
) -> None:
    problem = problem_in_float32("gpt2 tied", "fused", optimizer)
    same = attribute(problem, Attribution(schedule), tmp_path / "same").weights
    new = attribute(problem, Attribution(schedule, fresh=True), tmp_path / "new").weights
    assert torch.equal(same, new)


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_queries_replayed_together_have_the_bits_of_each_alone(
    micro_batch_size: int | None, tmp_path: Path
) -> None:
    problem = problem_in_float32("gpt2 tied", "fused")
    how, stream = Attribution(micro_batch_size=micro_batch_size), problem.stream()
    trainer, start = make_trainer(problem.loss, problem.training, how)
    trainer.train(start, stream, save_dir=tmp_path, checkpointing="all")
    queries, others = (query_losses_of(rows, "none", trainer.dtype) for rows in query_streams())
    query_losses = [*queries, *others, *queries]
    together = trainer.backward(tmp_path, stream, query_losses)
    alone = trainer.backward(tmp_path, stream, query_losses, queries_per_pass=1)
    assert torch.equal(together.weights, alone.weights)
    assert torch.equal(together.steps, alone.steps)


def test_one_direction_is_in_memory_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problem_in_float32("gpt2 tied", "fused")
    stream = problem.stream()
    trainer, start = make_trainer(problem.loss, problem.training, Attribution())
    trainer.train(start, stream, save_dir=tmp_path, checkpointing="all")
    queries = query_losses_of(query_streams()[0], "none", trainer.dtype)
    vjp, seen = OptimizerStage.vjp, []

    def noted(self: OptimizerStage, *arguments: Any) -> list[Params]:
        assert not any(reference() is not None for reference in seen)
        directions = vjp(self, *arguments)
        seen.extend(ref(tensor) for direction in directions for tensor in direction.values())
        return directions

    monkeypatch.setattr(OptimizerStage, "vjp", noted)
    trainer.backward(tmp_path, stream, queries)
    assert len(seen) == len(queries) * len(stream) * len(start.params) > len(start.params)


def test_memory_for_the_residuals_does_not_change_a_bit(tmp_path: Path) -> None:
    cached, not_cached = (
        attribute(problem_in_float32("gpt2 tied", way), Attribution(), tmp_path / way).weights
        for way in ("fused", "recomputed")
    )
    assert torch.equal(cached, not_cached)


@pytest.mark.parametrize(
    ("name", "way"), zip(["llama untied", "gpt2 tied"] * 2, WAYS, strict=False)
)
def test_a_score_does_not_depend_on_the_other_queries(name: str, way: str, tmp_path: Path) -> None:
    problem = problem_in_float32(name, way)
    together = attribute(problem, Attribution("log"), tmp_path / "together").weights
    alone = attribute(problem, Attribution("log", queries_per_pass=1), tmp_path / "alone").weights
    assert torch.equal(together, alone)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_last_step_is_reproduced_to_the_bit(
    schedule: CheckpointingKind, tmp_path: Path
) -> None:
    problem = problem_in_float32("llama untied", "fused", "sgd", "packed")
    how, stream = Attribution(schedule), problem.stream()
    trainer, start = make_trainer(problem.loss, problem.training, how)
    trainer.train(start, stream, save_dir=tmp_path, checkpointing=schedule)
    seen: list[tuple[str, dict[str, Any]]] = []
    trainer.backward(
        tmp_path, stream, query_streams()[0], observer=lambda e, /, **f: seen.append((e, f))
    )
    assert [facts for event, facts in seen if event == "reproduced"] == [
        {"exact": True, "difference": 0.0}
    ]
    replayed = [facts["step"] for event, facts in seen if event == "replay_step"]
    assert replayed == list(range(len(stream)))[::-1]
