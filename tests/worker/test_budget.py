"""How many queries are replayed at once: the same for every rank, as many as there is room for."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.attribution import budget
from engine.attribution.budget import Budget, budget_of
from engine.attribution.replay_memory import Needs
from engine.distributed.rank_setup import free_memory
from engine.replay.ranks import Ranks, Value
from engine.runs.config import RunConfig

CONFIG = RunConfig.model_validate({"model": {"path": "m"}, "data": {"path": "d"}})


class InLockstep(Ranks):
    """A rank that is told what all would say, once it is known what each says."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.told: list[list[Any]] | None = None

    def all_gather(self, value: Value) -> list[Value]:
        self.said.append(value)
        return [value] if self.told is None else self.told[len(self.said) - 1]


def budgets(needs: list[Needs], queries: int) -> list[Budget]:
    """What every rank decides, each with needs of its own."""

    def decide(told: list[list[Any]] | None) -> tuple[list[Budget], list[list[Any]]]:
        found, said = [], []
        for of_rank in needs:
            ranks = InLockstep()
            ranks.told = told
            trainer = SimpleNamespace(ranks=ranks, tier=SimpleNamespace(used=0))
            device = torch.device("cpu")
            job: Any = SimpleNamespace(trainer=trainer, config=CONFIG, device=device)
            found.append(budget_of(job, of_rank, queries, "gradients"))
            said.append(ranks.said)
        return found, [list(values) for values in zip(*said, strict=True)]

    return decide(decide(None)[1])[0]


def test_ranks_with_parts_of_other_sizes_replay_the_same_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget, "free_memory", lambda device: 10**9)
    smaller = Needs(100, 300, 10, 6200, 0, all_directions=False)
    larger = Needs(110, 330, 10, 6200, 0, all_directions=False)
    alone = [budgets([each], 256)[0].queries_per_pass for each in (larger, smaller)]
    assert alone[0] < alone[1]
    together = budgets([larger, smaller], 256)
    assert [each.queries_per_pass for each in together] == [alone[0]] * 2
    assert together[0].passes == together[1].passes


def test_memory_that_torch_keeps_of_a_device_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (35, 139))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10)
    assert free_memory(torch.device("cuda")) == 125
