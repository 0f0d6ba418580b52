"""How many queries share one pass: the same on every rank, and as many as memory allows."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.attribution import prediction
from engine.attribution.prediction import pass_limits
from engine.cost.query_passes import PassLimits, ReplayMemory
from engine.distributed.rank_setup import free_memory
from engine.replay.ranks import Ranks, Value
from engine.runs.config import CheckpointingName, RunConfig

CONFIG = RunConfig.model_validate({"model": {"path": "m"}, "data": {"path": "d"}})
SMALLER = ReplayMemory(100, 300, 10, 6200, 0, all_directions=False)
LARGER = ReplayMemory(110, 330, 10, 6200, 0, all_directions=False)


class OneOfMany(Ranks):
    """A rank that gathers prepared values of all ranks; the first call records its own value."""

    def __init__(self, gathered: list[Any] | None) -> None:
        self.own: Any = None
        self.gathered = gathered

    def all_gather(self, value: Value) -> list[Value]:
        self.own = value
        return [value] if self.gathered is None else self.gathered


def limits_of_ranks(
    memories: list[ReplayMemory], monkeypatch: pytest.MonkeyPatch
) -> list[PassLimits]:
    """The limits that every rank decides on, each with a shard of another size."""

    def limits(memory: ReplayMemory, gathered: list[Any] | None) -> tuple[PassLimits, Any]:
        ranks = OneOfMany(gathered)
        trainer = SimpleNamespace(ranks=ranks, host_cache=SimpleNamespace(used=0))
        job: Any = SimpleNamespace(trainer=trainer, config=CONFIG, device=torch.device("cpu"))
        job.training = None
        monkeypatch.setattr(prediction, "_replay_memory", lambda *_: memory)
        return pass_limits(job, "token"), ranks.own

    gathered = [limits(memory, None)[1] for memory in memories]
    return [limits(memory, gathered)[0] for memory in memories]


def test_ranks_with_shards_of_other_sizes_replay_the_same_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prediction, "free_memory", lambda device: 10**9)
    alone = [
        limits_of_ranks([memory], monkeypatch)[0].passes(256, "gradients").per_pass
        for memory in (LARGER, SMALLER)
    ]
    assert alone[0] < alone[1]
    together = [
        limits.passes(256, "gradients")
        for limits in limits_of_ranks([LARGER, SMALLER], monkeypatch)
    ]
    assert [passes.per_pass for passes in together] == [alone[0]] * 2
    assert together[0].passes == together[1].passes


def limits(fitting: int, within_graph: int = 1, *, saves_memory: bool = True) -> PassLimits:
    return PassLimits(SMALLER, 1e6, fitting, within_graph, 1, saves_memory, 0.5)


@pytest.mark.parametrize(
    ("limits", "queries", "kind", "passes", "per_pass"),
    [
        # On a CPU three queries a pass suffice of eight, and four of 16.
        (limits(99), 8, "gradients", 3, 3),
        (limits(99), 16, "gradients", 4, 4),
        (limits(99), 2, "gradients", 1, 2),
        # Two of 16 fit.
        (limits(2), 16, "gradients", 8, 2),
        # Eight queries are small beside the graph that they share.
        (limits(99, within_graph=8), 8, "gradients", 1, 8),
        # Every pass would repeat training steps.
        (limits(99), 8, "sqrt", 1, 8),
        # A GPU is used by one run alone.
        (limits(99, saves_memory=False), 8, "gradients", 1, 8),
        # Passes are of even size.
        (limits(3, saves_memory=False), 4, "all", 2, 2),
    ],
)
def test_queries_are_divided_among_passes(
    limits: PassLimits, queries: int, kind: CheckpointingName, passes: int, per_pass: int
) -> None:
    split = limits.passes(queries, kind)
    assert (split.passes, split.per_pass) == (passes, per_pass)


def test_one_query_that_does_not_fit_is_advised_against() -> None:
    assert limits(1).advice is None
    small = PassLimits(SMALLER, 1000, 1, 1, 1, True, 0.5)
    assert small.advice is not None and "1 kB may be used: lower training.micro" in small.advice


def test_memory_that_torch_caches_on_a_device_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (35, 139))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10)
    assert free_memory(torch.device("cuda")) == 125
