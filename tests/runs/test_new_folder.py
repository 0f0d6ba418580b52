"""A folder that is written wholly or not at all."""

import os
from pathlib import Path

import pytest

from engine.runs.atomic import new_folder
from engine.runs.errors import DiskFullError, RunError, UsageError


def test_it_appears_when_all_is_written(tmp_path: Path) -> None:
    target = tmp_path / "a" / "out"
    with new_folder(target) as staging:
        (staging / "x").write_text("1")
        assert not target.exists()
    assert os.listdir(target) == ["x"] and os.listdir(target.parent) == ["out"]


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt()])
def test_nothing_is_left_of_what_failed(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), new_folder(tmp_path / "out") as staging:
        (staging / "x").write_text("1")
        raise error
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_reported_as_such(tmp_path: Path) -> None:
    with (
        pytest.raises(DiskFullError, match=r"disk full while writing .*out, so nothing was"),
        new_folder(tmp_path / "out") as staging,
    ):
        (staging / "x").write_text("1")
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")
    assert os.listdir(tmp_path) == []


def test_where_nothing_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunError, match="cannot be written: Not a directory"),
        new_folder(tmp_path / "file" / "out"),
    ):
        pass


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as staging:
        (staging / "x").write_text("1")
    with pytest.raises(UsageError, match="already there"), new_folder(tmp_path / "out"):
        pass
    assert os.listdir(tmp_path / "out") == ["x"]


def test_what_a_killed_process_left_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / ".out.new").mkdir()
    (tmp_path / ".out.new" / "old").touch()
    with new_folder(tmp_path / "out") as staging:
        (staging / "x").write_text("1")
    assert os.listdir(tmp_path / "out") == ["x"]
