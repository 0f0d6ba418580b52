"""Staggered loading: the ranks of a machine shard a model one at a time."""

from pathlib import Path
from typing import Any

import pytest

from engine.distributed.mesh import Mesh, ProcessRanks
from engine.distributed.rank_setup import check_same, staggered_load
from engine.replay.ranks import Ranks, Value
from engine.runs.errors import RunError, UsageError
from tests.distributed.processes import on_ranks


def load_and_shard(folder: Path, shards: int) -> tuple[list[str], int]:
    """The whole models that exist while this rank shards its own, and the number of shards."""
    ranks = ProcessRanks()

    def load() -> Path:
        whole = folder / f"whole-{ranks.index}"
        whole.touch()
        return whole

    def make_mesh(whole: Path | None) -> Mesh:
        assert (whole is not None) == (ranks.index == 0)
        return Mesh(shards)

    def shard(whole: Path, mesh: Mesh) -> tuple[list[str], int]:
        existing = sorted(path.name for path in folder.glob("whole-*"))
        if mesh.shard_group.count > 1:
            whole.unlink()
        return existing, mesh.shard_group.count

    return staggered_load(ranks, load, make_mesh, shard)


@pytest.mark.parametrize("ranks", [2, 3])
def test_one_whole_model_exists_at_a_time(ranks: int, tmp_path: Path) -> None:
    results = on_ranks(ranks, load_and_shard, tmp_path, ranks)
    assert results == [([f"whole-{rank}"], ranks) for rank in range(ranks)]


def test_replicas_keep_whole_models(tmp_path: Path) -> None:
    assert [shards for _, shards in on_ranks(2, load_and_shard, tmp_path, 1)] == [1, 1]
    assert len(list(tmp_path.glob("whole-*"))) == 2


class SecondRank(Ranks):
    """Rank 1 of two, where rank 0 could not load the model."""

    index, count = 1, 2

    def all_gather(self, value: Any) -> list[Any]:
        return ["no such model", value]


def test_an_error_of_the_first_rank_is_raised_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)

    def never(*_: object) -> Any:
        raise AssertionError

    with pytest.raises(UsageError, match="no such model"):
        staggered_load(SecondRank(), never, never, never)


class Disagreeing(Ranks):
    """Two ranks with different data."""

    def all_gather(self, value: Value) -> list[Value]:
        other: Any = {**value, "the training data": "b"}  # type: ignore[dict-item]
        return [value, other]


def test_ranks_with_different_data_are_refused() -> None:
    facts = {"the config": "x", "the training data": "a"}
    with pytest.raises(RunError, match="rank 1 disagrees with rank 0 about the training data: b"):
        check_same(Disagreeing(), facts)
