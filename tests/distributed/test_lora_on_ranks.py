"""Models with adapters on several ranks: the frozen base and the adapters divided alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft  # noqa: F401 - loaded once, before the ranks are forked
import pytest
import torch

from engine import CausalLMLoss, Trainer
from engine.distributed.mesh import Mesh
from engine.replay.checkpointing import CheckpointingKind
from engine.replay.optimizers import build_optimizer
from tests.distributed.processes import on_ranks
from tests.distributed.test_scores_on_ranks import agree
from tests.exactness.adapted import Adapters, adapted_model
from tests.exactness.attributing import Problem, make_measurements
from tests.exactness.cases import document_weights, make_data, make_training


@dataclass(frozen=True)
class Case:
    """A training of adapters and its schedule."""

    adapters: Adapters
    schedule: CheckpointingKind


CASES = [
    # Embeddings keep their factors in a ParameterDict, other layers in a ModuleDict.
    Case(Adapters("gpt2 tied", ("wte", "wpe", "lm_head", "c_attn"), rank=3), "gradients"),
    Case(Adapters("llama two layers", ("all-linear",), rank=1), "sqrt"),
    Case(Adapters("gemma2 soft cap", ("embed_tokens", "o_proj"), rank=1), "all"),
]
MESHES = [(2, 1, range(3)), (3, 3, range(0, 3, 2)), (4, 2, range(1, 2))]
"""Ranks, how many of them divide the parameters among themselves, and the cases' numbers."""


def attribute(case: Case, folder: Path, mesh: Mesh | None) -> Any:
    """Scores, their sums over steps and the measurements, as arrays."""
    data, training = make_data("rows"), make_training(clip=True)
    loss = CausalLMLoss(adapted_model(case.adapters))
    problem = Problem(loss, data, training, data.token_weights(document_weights(data)))
    trainer, start = Trainer.initialize(
        loss,
        build_optimizer(training.optimizer, training.rate),
        micro_batch_size=1,
        max_grad_norm=training.max_grad_norm,
        elementwise=True,
        mesh=mesh,
    )
    stream = problem.stream()
    trainer.train(start, stream, save_dir=folder, checkpointing=case.schedule)
    measurements = make_measurements("none", torch.float64)
    scores = trainer.backward(folder, stream, measurements, queries_per_pass=2)
    return scores.weights.numpy(), scores.steps.numpy(), scores.query_losses.numpy()


def held_of(case: Case) -> tuple[int, int, int]:
    """Elements of the adapters, of this rank's part of them, and of what the module still holds."""
    loss = CausalLMLoss(adapted_model(case.adapters))
    whole = sum(p.numel() for p in loss.parameters() if p.requires_grad)
    training = make_training()
    optimizer = build_optimizer(training.optimizer, training.rate)
    _, start = Trainer.initialize(loss, optimizer, elementwise=True, mesh=Mesh())
    part = sum(p.numel() for p in start.params.values())
    return whole, part, sum(p.numel() for p in loss.parameters())


def attributed(shards: int, numbers: range, folder: Path) -> list[Any]:
    mesh = Mesh(shards)
    return [attribute(CASES[number], folder / str(number), mesh) for number in numbers]


def all_held() -> list[tuple[int, int, int]]:
    return [held_of(case) for case in CASES]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The scores on one rank without a mesh."""
    folder = tmp_path_factory.mktemp("alone")
    return [attribute(case, folder / str(number), None) for number, case in enumerate(CASES)]


@pytest.mark.parametrize(("ranks", "shards", "numbers"), MESHES)
def test_every_mesh(
    ranks: int, shards: int, numbers: range, alone: list[Any], tmp_path: Path
) -> None:
    for of_rank in on_ranks(ranks, tmp_path, attributed, shards, numbers, tmp_path):
        for number, ours in zip(numbers, of_rank, strict=True):
            agree(ours, alone[number])


def test_adapters_are_divided_and_the_base_is_gone(tmp_path: Path) -> None:
    first, second = on_ranks(2, tmp_path, all_held)
    for (whole, part, left), (_, other, _) in zip(first, second, strict=True):
        assert part + other == whole and 0 <= part - other <= 20
        assert left == 0
