"""The engine's registry, with intact and with damaged files."""

import logging
import sqlite3
from pathlib import Path

import pytest

from engine.daemon.registry import Registry

A, B, C = (Path(f"/runs/{name}") for name in "abc")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "registry.sqlite"


def filled(file: Path) -> Registry:
    registry = Registry(file)
    registry.set_fact(Path("/runs"), "shared")
    registry.set_fact(Path("/odd \udcff 'name"), "shared", "twice")
    registry.enqueue([(B, 1), (A, 1), (B, 1)])
    registry.enqueue([(C, 2)])
    return registry


def order(registry: Registry) -> list[Path]:
    placed = {path: registry.position((path, 2 if path is C else 1)) for path in (A, B, C)}
    return sorted((p for p in placed if placed[p] is not None), key=lambda p: placed[p] or 0)


def test_it_comes_back(file: Path) -> None:
    filled(file).close()
    again = Registry(file)
    assert set(again.paths_with_fact("shared")) == {Path("/odd \udcff 'name"), Path("/runs")}
    assert again.fact(Path("/odd \udcff 'name"), "shared") == "twice"
    assert again.fact(Path("/odd"), "shared") is again.fact(Path("/runs"), "other") is None
    assert order(again) == [B, A, C]
    again.dequeue(lambda entry: entry[0] == A)
    assert order(again) == [B, C] and again.runs == [B, C]
    again.enqueue([(A, 1)])
    again.close()
    assert order(Registry(file)) == [B, C, A]


def test_it_is_durable_and_no_wal(file: Path) -> None:
    registry = filled(file)
    connection = registry._connection
    assert connection is not None
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (3,)


@pytest.mark.parametrize("damage", ["noise", "cut", "middle", "empty", "version", "schema"])
def test_a_damaged_file_is_moved_aside(
    file: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    filled(file).close()
    content = file.read_bytes()
    if damage == "noise":
        file.write_bytes(b"not a database, and long enough to be none" * 100)
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "middle":
        file.write_bytes(content[:4096] + b"\xff" * 4096 + content[8192:])
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        other = sqlite3.connect(file)
        statement = "PRAGMA user_version = 99" if damage == "version" else "DROP TABLE queue"
        other.execute(statement)
        other.close()
    with caplog.at_level(logging.WARNING):
        registry = Registry(file)
    registry.enqueue([(A, 1)])
    registry.close()
    assert order(Registry(file)) == [A]
    # An empty file is an empty database, and a missing table is created again.
    reported = damage not in ("empty", "schema")
    assert len(list(file.parent.glob("registry.sqlite.damaged-*"))) == reported
    assert ("is damaged" in caplog.text and str(file) in caplog.text) == reported


def test_damage_while_it_is_open_loses_nothing(file: Path) -> None:
    registry = filled(file)
    registry.close()
    file.write_bytes(b"x" * 10_000)
    registry.enqueue([(Path("/runs/d"), 1)])
    assert order(registry) == [B, A, C]
    registry.close()
    again = Registry(file)
    assert order(again) == [B, A, C] and again.position((Path("/runs/d"), 1)) is not None
    assert len(again.paths_with_fact("shared")) == 2


def test_a_file_that_cannot_be_written_is_only_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        registry = Registry(tmp_path / "missing" / "registry.sqlite")
        registry.set_fact(Path("/runs"), "shared")
    registry.enqueue([(A, 1)])
    assert registry.fact(Path("/runs"), "shared") and registry.position((A, 1)) == 1
    assert "could not be used" in caplog.text


def test_forgetting_a_folder_forgets_all_below_it(file: Path) -> None:
    registry = filled(file)
    registry.enqueue([(Path("/runs-too/a"), 1)])
    registry.set_fact(A, "trusted", "1234")
    assert registry.forget(Path("/runs")) == 3
    registry.close()
    again = Registry(file)
    assert again.runs == [Path("/runs-too/a")] and again.fact(A, "trusted") is None
    assert again.paths_with_fact("shared") == [Path("/odd \udcff 'name")]
