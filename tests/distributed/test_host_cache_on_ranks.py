"""Ranks with different host caches issue the same collective operations."""

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.distributed.mesh import Mesh
from engine.runs.manifest import part_folder
from engine.trajectory.host_cache import HostCache
from engine.trajectory.reader import DamagedStepError
from tests.distributed.processes import on_ranks
from tests.distributed.test_scores_on_ranks import Case, trained
from tests.exactness.attributing import make_measurements

CASE = Case("gpt2 tied", "gradients", dtype=torch.float32)
PLENTY = 10**9
BUDGETS = [(0, 0), (PLENTY, 20_000)]
"""Cache bytes of the two ranks: none, some or all of their shards of the trajectory."""


def attributed(mesh: Mesh, folder: Path, budget: int, train: bool) -> Any:
    trainer, start, problem = trained(CASE, folder, mesh)
    trainer.host_cache = HostCache(budget)
    if train:
        trainer.train(start, problem.stream(), save_dir=folder, checkpointing=CASE.schedule)
    measurements = make_measurements("none", CASE.dtype)
    scores = trainer.backward(folder, problem.stream(), measurements, queries_per_pass=1)
    return scores.weights.numpy(), scores.steps.numpy(), scores.query_losses.numpy()


def with_budgets(folder: Path) -> list[Any]:
    mesh = Mesh(2)
    results = []
    for number, budgets in enumerate(BUDGETS):
        own = budgets[mesh.index]
        results.append(attributed(mesh, folder / str(number), own, train=True))
    results.append(attributed(mesh, folder / "0", BUDGETS[1][1 - mesh.index], train=False))
    damaged = part_folder(folder / "0", 1, 2) / "gradient-00000002.safetensors"
    if mesh.index == 1:
        damaged.write_bytes(b"")
    mesh.barrier()
    try:
        attributed(mesh, folder / "0", PLENTY, train=False)
    except DamagedStepError as error:
        return [*results, (error.key, str(error))]
    return results


@pytest.mark.slow
def test_every_cache_size_on_two_ranks(tmp_path: Path) -> None:
    first, second = on_ranks(2, with_budgets, tmp_path)
    assert first[-1] == second[-1] and first[-1][0] == ("gradient", 2)
    assert "rank-1-of-2" in first[-1][1]
    for of_rank in (first, second):
        for scores in of_rank[:-1]:
            assert all((a == b).all() for a, b in zip(scores, first[0], strict=True))
