"""Scores put together from the replays of a basis are those of every query's own derivative."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine import CausalLMLoss, Trainer
from engine.replay.query_subspace import Subspace, gram_matrix, subspace_of
from engine.training.measurements import Measurement, measurements_of, scaled
from tests.distributed.processes import on_ranks
from tests.exactness.attributing import (
    BOUND,
    Attribution,
    Problem,
    exact_language_model,
    make_trainer,
    query_streams,
)
from tests.exactness.cases import document_weights, make_data, make_training
from tests.exactness.conftest import Agree
from tests.exactness.tiny_models import tiny_model

ASKED = [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 1, 0], [0, 1, 0, 0]]
"""Six queries of the four there are: two are repeats and one is a sum of two others."""
CLIPPED = make_training("adamw", "one_cycle", clip=True)


def make_problem(model: str = "gpt2 tied") -> Problem:
    data = make_data("rows")
    weights = data.token_weights(document_weights(data))
    return Problem(CausalLMLoss(tiny_model(model)), data, CLIPPED, weights)


def dependent_queries() -> list[Measurement]:
    single = [
        measurement
        for stream in query_streams()
        for measurement in measurements_of(stream, "none", torch.float64)
    ]
    return [
        [scaled(batch, factor) for factor, part in zip(row, single, strict=True) for batch in part]
        for row in ASKED
    ]


def find_subspace(trainer: Trainer, folder: Path, held: int, tolerance: float) -> Subspace:
    reader, queries = trainer.open(folder), dependent_queries()
    final = reader.load_state(reader.schedule.steps)
    gram = gram_matrix(
        lambda query: trainer.measuring.gradient(final, queries[query])[1],
        len(queries),
        held,
        trainer.ranks.group,
    )
    return subspace_of(gram, tolerance)


def scores_of(problem: Problem, trainer: Trainer, folder: Path, subspace: Subspace) -> list[Tensor]:
    """Scores and their sums over steps, from the replays of the basis alone."""
    reader, stream, queries = trainer.open(folder), problem.stream(), dependent_queries()
    state = trainer.begin_replay(reader, stream, queries, subspace.combinations)
    singly = trainer.begin_replay(reader, stream, queries).measurements
    torch.testing.assert_close(state.measurements, subspace.combinations @ singly)
    trainer.replay(reader, stream, state)
    weights = torch.einsum("ij,jrt->irt", subspace.coefficients, state.scores)
    return [weights, subspace.coefficients @ state.steps]


@pytest.mark.parametrize("model", ["gpt2 tied", "llama untied"])
@pytest.mark.parametrize("held", [2, 6])
def test_dependent_queries(model: str, held: int, agree: Agree, tmp_path: Path) -> None:
    problem = make_problem(model)
    trainer, start = make_trainer(problem.loss, problem.training, Attribution())
    trainer.train(start, problem.stream(), save_dir=tmp_path, schedule="gradients")
    subspace = find_subspace(trainer, tmp_path, held, 0.0)
    assert subspace.rank == 3
    weights, steps = scores_of(problem, trainer, tmp_path, subspace)
    exact = exact_language_model(
        problem.loss.model, problem.data, problem.weights, problem.training
    ).combined(ASKED)
    agree("subspace", weights, exact.weights, BOUND)
    agree("subspace", steps, exact.steps, BOUND)
    # Less is no longer exact, and says so.
    rough = find_subspace(trainer, tmp_path, held, 0.95)
    assert rough.rank < 3
    off = (scores_of(problem, trainer, tmp_path, rough)[0] - weights).flatten(1).norm(dim=1)
    assert (off / weights.flatten(1).norm(dim=1)).max() > 0.1 and rough.outside.max() > 0.1


def on_mesh(folder: Path, shards: int) -> list[Any]:
    from engine.distributed.mesh import Mesh
    from engine.replay.optimizers import build_optimizer

    problem = make_problem()
    trainer, start = Trainer.initialize(
        problem.loss,
        build_optimizer(problem.training.optimizer, problem.training.rate),
        max_grad_norm=problem.training.max_grad_norm,
        elementwise=True,
        mesh=Mesh(shards),
    )
    trainer.train(start, problem.stream(), save_dir=folder, schedule="gradients")
    subspace = find_subspace(trainer, folder, 3, 0.95)
    scores = scores_of(problem, trainer, folder, subspace)[0]
    return [found.numpy() for found in (subspace.norms, subspace.outside, scores)]


@pytest.mark.parametrize(("ranks", "shards"), [(2, 2), (2, 1)])
def test_ranks_that_share_gradients_find_the_same_subspace(
    ranks: int, shards: int, tmp_path: Path
) -> None:
    problem = make_problem()
    trainer, start = make_trainer(problem.loss, problem.training, Attribution())
    alone = tmp_path / "alone"
    trainer.train(start, problem.stream(), save_dir=alone, schedule="gradients")
    subspace = find_subspace(trainer, alone, 6, 0.95)
    wanted = (subspace.norms, subspace.outside, scores_of(problem, trainer, alone, subspace)[0])
    for found in on_ranks(ranks, tmp_path, on_mesh, tmp_path / "mesh", shards):
        for ours, theirs in zip(found, wanted, strict=True):
            assert abs(ours - theirs.numpy()).max() <= BOUND * theirs.abs().max()
