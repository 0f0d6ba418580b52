"""Files of a run that are pipes, devices or endless: no reader waits for them."""

import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.daemon.run_monitor import RunMonitor
from engine.evaluation.trust import read_trust
from engine.runs import jobs
from engine.runs import safe_open as opening
from engine.runs.arrays import create_array, open_array, read
from engine.runs.attempts import AttemptFolder
from engine.runs.errors import MagicError, RunError
from engine.runs.jobs import JobFolder
from engine.runs.journal import JournalWriter, read_journal
from engine.runs.run_folder import RunFolder
from engine.runs.safe_open import check_regular, open_regular, read_file
from engine.runs.submission import submit_run
from engine.scores.attribution import open_attribution
from tests.cli.fake_run import FakeRun
from tests.daemon.conftest import CONFIG

READERS: tuple[Callable[[Path], object], ...] = (
    open_regular, read_file, check_regular, JournalWriter, read_journal
)  # fmt: skip


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(path))


def a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [pipe, link_to_a_device, a_socket, a_folder])
@pytest.mark.parametrize("reader", READERS)
def test_only_files_are_opened(
    tmp_path: Path,
    make: Callable[[Path], None],
    reader: Callable[[Path], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "file")
    with pytest.raises(RunError, match="file is not a regular file"):
        reader(tmp_path / "file")
    assert len(os.listdir("/proc/self/fd")) < 200


def test_what_is_not_there_and_what_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"12345")
    assert read_file(tmp_path / "file", 5) == b"12345"
    with pytest.raises(RunError, match="is longer than 4 bytes"):
        read_file(tmp_path / "file", 4)


def test_a_pipe_that_comes_between_looking_and_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(tmp_path / "pipe")
    (tmp_path / "file").touch()
    real = os.stat
    monkeypatch.setattr(opening.os, "stat", lambda path: real(tmp_path / "file"))
    with pytest.raises(RunError, match="is not a regular file"):
        open_regular(tmp_path / "pipe")
    with pytest.raises(RunError, match="is not a regular file"):
        JournalWriter(tmp_path / "pipe")


def test_a_pipe_among_the_chunks_of_an_array(tmp_path: Path) -> None:
    create_array(tmp_path / "a.zarr", "x", (2,), "f4", (2,))[...] = 1.0
    assert read(open_array(tmp_path / "a.zarr", "x"), slice(None), tmp_path).tolist() == [1, 1]
    chunk = next(path for path in (tmp_path / "a.zarr" / "x").rglob("*") if path.name == "0")
    chunk.unlink()
    pipe(chunk)
    with pytest.raises(RunError, match="is damaged"):
        read(open_array(tmp_path / "a.zarr", "x"), slice(None), tmp_path)
    (tmp_path / "a.zarr" / "x" / "zarr.json").unlink()
    pipe(tmp_path / "a.zarr" / "x" / "zarr.json")
    with pytest.raises(RunError, match="is missing or damaged"):
        open_array(tmp_path / "a.zarr", "x")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all its files, and a job that succeeded."""
    runs = tmp_path_factory.mktemp("finished")
    folder = FakeRun().write(runs).path
    job = submit_run(runs, "20250102T030405-abc124", CONFIG)
    shutil.move(job.run.path / "jobs", folder / "jobs")
    attempt, lock = JobFolder(folder / "jobs" / "0001").new_attempt()
    attempt.write_exit("done")  # type: ignore[arg-type]
    os.close(lock)
    return folder


def files_of(run: Path) -> Iterator[Path]:
    for path in sorted(run.rglob("*")):
        if path.is_file():
            yield path


def test_a_pipe_at_any_name_in_a_run_blocks_no_reader(finished: Path, tmp_path: Path) -> None:
    unreadable = set()
    for file in files_of(finished):
        name = file.relative_to(finished)
        copy = tmp_path / finished.name
        shutil.copytree(finished, copy)
        (copy / name).unlink()
        pipe(copy / name)
        view = RunMonitor(copy, lambda: None).view()
        if view.state == "unreadable":
            assert view.reason and str(name) in view.reason and "regular file" in view.reason
            unreadable.add(file.name)
        try:
            opened = open_attribution(RunFolder(copy), None)
            read_trust(opened)
            for query in range(opened.scores.queries):
                opened.scores.document_scores(query)
                opened.scores.top_documents(query)
        except MagicError as error:
            assert str(copy) in str(error)
        shutil.rmtree(copy)
    assert {
        "run_config.yaml",
        "events.jsonl",
        "request.json",
        "desired_state.json",
        "lock",
    } <= unreadable


def test_a_lock_that_a_stranger_holds_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_LOCK_SECONDS", 0.05)
    job = submit_run(tmp_path, "20250102T030405-abc124", CONFIG)
    stranger = os.open(job.path, os.O_RDONLY)
    fcntl.flock(stranger, fcntl.LOCK_SH)
    with pytest.raises(RunError, match="is in use by another process"):
        job.new_attempt()
    os.close(stranger)
    attempt, lock = job.new_attempt()
    assert isinstance(attempt, AttemptFolder)
    os.close(lock)
