"""Ranks that divide a model one after the other."""

from pathlib import Path
from typing import Any

import pytest

from engine.distributed.mesh import Mesh, ProcessRanks
from engine.distributed.rank_setup import staggered_load
from engine.replay.ranks import Ranks
from engine.runs.errors import UsageError
from tests.distributed.processes import on_ranks


def divide_in_turn(folder: Path, shards: int) -> tuple[list[str], int]:
    """Whole models there are while this rank divides its own, and its number of ranks."""
    ranks = ProcessRanks()

    def load() -> Path:
        whole = folder / f"whole-{ranks.index}"
        whole.touch()
        return whole

    def meet(held: Path | None) -> Mesh:
        assert (held is not None) == (ranks.index == 0)
        return Mesh(shards)

    def divide(whole: Path, mesh: Mesh) -> tuple[list[str], int]:
        found = sorted(path.name for path in folder.glob("whole-*"))
        if mesh.shard_group.count > 1:
            whole.unlink()
        return found, mesh.shard_group.count

    return staggered_load(ranks, load, meet, divide)


@pytest.mark.parametrize("ranks", [2, 3])
def test_no_two_ranks_hold_it_whole(ranks: int, tmp_path: Path) -> None:
    found = on_ranks(ranks, tmp_path, divide_in_turn, tmp_path, ranks)
    assert found == [([f"whole-{rank}"], ranks) for rank in range(ranks)]


def test_what_is_not_divided_stays(tmp_path: Path) -> None:
    found = on_ranks(2, tmp_path, divide_in_turn, tmp_path, 1)
    assert [count for _, count in found] == [1, 1]
    assert len(list(tmp_path.glob("whole-*"))) == 2


class Second(Ranks):
    """The second of two ranks, the first of which could not load."""

    index, count = 1, 2

    def all_gather(self, value: Any) -> list[Any]:
        return ["no such model", value]


def test_what_the_first_cannot_load_every_rank_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)

    def never(*_: object) -> Any:
        raise AssertionError

    with pytest.raises(UsageError, match="no such model"):
        staggered_load(Second(), never, never, never)
