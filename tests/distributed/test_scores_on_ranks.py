"""Scores do not depend on the mesh: several ranks give the scores of one process."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchopt

from engine import CausalLMLoss, DataStream, Trainer
from engine.distributed.mesh import Mesh
from engine.models.layers import layers_of
from engine.replay.checkpointing import CheckpointingKind
from engine.replay.optimizers import build_optimizer
from tests.distributed.processes import on_ranks
from tests.exactness.attributing import Problem, make_measurements
from tests.exactness.cases import document_weights, make_data, make_training
from tests.exactness.test_unusual_modules_against_retraining import MODULES, TOKENS, make
from tests.exactness.tiny_models import tiny_model

BOUND = 1e-9


@dataclass(frozen=True)
class Case:
    """A training and its options.

    ``frozen`` is a part of the names of frozen parameters. ``recompute`` turns activation
    checkpointing on, on a mesh only.
    """

    model: str
    schedule: CheckpointingKind = "all"
    optimizer: str = "adamw"
    layout: str = "rows"
    micro_batch_size: int | None = None
    frozen: str = ""
    recompute: bool = False
    dtype: torch.dtype = torch.float64


CASES = [
    Case("gpt2 tied", "gradients", micro_batch_size=1),
    Case("llama untied", "sqrt", "sgd", "packed"),
    Case("gemma2 soft cap", "log", "adam"),
    Case("gpt2 two layers", "sqrt", frozen="wte"),
    Case("llama two layers", "log", micro_batch_size=2, recompute=True),
    Case("phi head bias", frozen="ln_"),
]
ALL = tuple(range(len(CASES)))
MESHES = [
    (1, 1, (0,)),
    (2, 2, ALL),
    *(pytest.param(*mesh, ALL, marks=pytest.mark.slow) for mesh in ((1, 1), (3, 3), (4, 2))),
]
"""Ranks, shards, and the numbers of the cases; the full product is slow."""


def problem_of(case: Case) -> Problem:
    model = tiny_model(case.model, case.dtype)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not case.frozen or case.frozen not in name)
    data = make_data(case.layout)
    training = make_training(optimizer=case.optimizer, clip=True)
    weights = data.token_weights(document_weights(data))
    return Problem(CausalLMLoss(model), data, training, weights)


def trained(case: Case, folder: Path, mesh: Mesh | None) -> tuple[Any, Any, Problem]:
    problem = problem_of(case)
    trainer, start = Trainer.initialize(
        problem.loss,
        build_optimizer(problem.training.optimizer, problem.training.rate),
        micro_batch_size=case.micro_batch_size,
        max_grad_norm=problem.training.max_grad_norm,
        elementwise=True,
        mesh=mesh,
        activation_checkpointing=layers_of(problem.loss) if case.recompute and mesh else (),
    )
    return trainer, start, problem


def attribute(case: Case, folder: Path, mesh: Mesh | None) -> Any:
    """Scores, their sums over steps and the measurements, as arrays."""
    trainer, start, problem = trained(case, folder, mesh)
    trainer.train(start, problem.stream(), save_dir=folder, checkpointing=case.schedule)
    return replayed(case, folder, mesh)


def replayed(case: Case, folder: Path, mesh: Mesh | None) -> Any:
    """As :func:`attribute`, for an existing trajectory."""
    trainer, _, problem = trained(case, folder, mesh)
    measurements = make_measurements("none", case.dtype)
    scores = trainer.backward(folder, problem.stream(), measurements, queries_per_pass=2)
    return scores.weights.numpy(), scores.steps.numpy(), scores.query_losses.numpy()


def attribute_cases(shards: int, numbers: Sequence[int], folder: Path) -> list[Any]:
    mesh = Mesh(shards)
    return [attribute(CASES[number], folder / str(number), mesh) for number in numbers]


def agree(scores: Any, expected: Any, bound: float = BOUND) -> None:
    for ours, theirs in zip(scores, expected, strict=True):
        assert abs(ours - theirs).max() <= bound * abs(theirs).max()


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The scores of every case in one process without a mesh."""
    folder = tmp_path_factory.mktemp("single")
    return [attribute(case, folder / str(number), None) for number, case in enumerate(CASES)]


@pytest.mark.parametrize(("ranks", "shards", "numbers"), MESHES)
def test_every_mesh(
    ranks: int, shards: int, numbers: Sequence[int], single: list[Any], tmp_path: Path
) -> None:
    results = on_ranks(ranks, attribute_cases, shards, numbers, tmp_path)
    for of_rank in results:
        for number, ours, theirs in zip(numbers, of_rank, results[0], strict=True):
            agree(ours, single[number])
            assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))


def twice(case: Case, folder: Path) -> list[Any]:
    mesh = Mesh()
    return [attribute(case, folder / name, mesh) for name in ("first", "second")]


def test_a_mesh_repeats_its_bits(tmp_path: Path) -> None:
    case = replace(CASES[0], dtype=torch.float32)
    for first, second in on_ranks(3, twice, case, tmp_path):
        assert all((a == b).all() for a, b in zip(first, second, strict=True))


SHARED = ("two names, tied", "two parameters of one memory", "sdpa", "compiled part")


def of_modules(folder: Path, mesh: Mesh | None) -> list[Any]:
    """Scores of modules with shared parameters, fused attention or compiled parts."""
    results = []
    for number, name in enumerate(SHARED):
        stream = DataStream([{"ids": row} for row in TOKENS], 2)
        trainer, start = Trainer.initialize(
            make(MODULES[name]), torchopt.sgd(0.3), elementwise=True, mesh=mesh
        )
        trainer.train(start, stream, save_dir=folder / str(number))
        queries = DataStream([{"ids": TOKENS[1]}], 1)
        scores = trainer.backward(folder / str(number), stream, queries)
        results.append((scores.weights.numpy(), scores.query_losses.numpy()))
    return results


def sharded_modules(folder: Path) -> list[Any]:
    return of_modules(folder, Mesh())


def test_modules_that_share_parameters(tmp_path: Path) -> None:
    expected = of_modules(tmp_path / "single", None)
    for of_rank in on_ranks(2, sharded_modules, tmp_path / "sharded"):
        for ours, theirs in zip(of_rank, expected, strict=True):
            agree(ours, theirs)


def on_mesh(case: Case, folder: Path, shards: int, train: bool) -> Any:
    mesh = Mesh(shards)
    return attribute(case, folder, mesh) if train else replayed(case, folder, mesh)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_trajectory_is_replayed_on_another_mesh(
    number: int, single: list[Any], tmp_path: Path
) -> None:
    case, one, three = CASES[number], tmp_path / "one", tmp_path / "three"
    attribute(case, one, None)
    agree(on_ranks(2, on_mesh, case, one, 2, False)[0], single[number])
    on_ranks(3, on_mesh, case, three, 3, True)
    agree(on_ranks(2, on_mesh, case, three, 2, False)[1], single[number])
    agree(replayed(case, three, None), single[number])
