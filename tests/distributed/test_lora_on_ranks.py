"""Models with LoRA adapters on several ranks: base and adapters are both sharded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """Adapters and a checkpointing schedule."""

    adapters: Adapters
    schedule: CheckpointingKind


CASES = [
    # Embeddings keep their factors in a ParameterDict, other layers in a ModuleDict.
    Case(Adapters("gpt2 tied", ("wte", "wpe", "lm_head", "c_attn"), rank=3), "gradients"),
    Case(Adapters("llama two layers", ("all-linear",), rank=1), "sqrt"),
    Case(Adapters("gemma2 soft cap", ("embed_tokens", "o_proj"), rank=1), "all"),
]
MESHES = [
    (2, 1, (0, 1)),
    *(pytest.param(*mesh, (0, 1, 2), marks=pytest.mark.slow) for mesh in ((2, 1), (3, 3), (4, 2))),
]
"""Ranks, shards, and the numbers of the cases; the full product is slow."""


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


def element_counts(case: Case) -> tuple[int, int, int]:
    """Elements of the adapters, of this rank's shard of them, and of the module after sharding."""
    loss = CausalLMLoss(adapted_model(case.adapters))
    whole = sum(p.numel() for p in loss.parameters() if p.requires_grad)
    training = make_training()
    optimizer = build_optimizer(training.optimizer, training.rate)
    _, start = Trainer.initialize(loss, optimizer, elementwise=True, mesh=Mesh())
    shard = sum(p.numel() for p in start.params.values())
    return whole, shard, sum(p.numel() for p in loss.parameters())


def attribute_cases(shards: int, numbers: Sequence[int], folder: Path) -> list[Any]:
    mesh = Mesh(shards)
    return [attribute(CASES[number], folder / str(number), mesh) for number in numbers]


def all_element_counts() -> list[tuple[int, int, int]]:
    return [element_counts(case) for case in CASES]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The scores of every case in one process without a mesh."""
    folder = tmp_path_factory.mktemp("single")
    return [attribute(case, folder / str(number), None) for number, case in enumerate(CASES)]


@pytest.mark.parametrize(("ranks", "shards", "numbers"), MESHES)
def test_every_mesh(
    ranks: int, shards: int, numbers: Sequence[int], single: list[Any], tmp_path: Path
) -> None:
    for of_rank in on_ranks(ranks, attribute_cases, shards, numbers, tmp_path):
        for number, ours in zip(numbers, of_rank, strict=True):
            agree(ours, single[number])


def test_adapters_are_sharded_and_the_base_is_freed() -> None:
    first, second = on_ranks(2, all_element_counts)
    for (whole, shard, left), (_, other, _) in zip(first, second, strict=True):
        assert shard + other == whole and 0 <= shard - other <= 20
        assert left == 0
