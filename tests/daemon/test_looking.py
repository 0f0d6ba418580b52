"""Reading a folder starts no job in it; only submitted jobs start."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.daemon.engine import Engine
from engine.daemon.permission import SHARED
from engine.daemon.registry import Registry
from engine.daemon.settings import Settings
from engine.runs.api_schema import SubmitRun
from engine.runs.checksummed import read_record, write_record
from engine.runs.errors import ConflictError
from tests.daemon.conftest import CONFIG, Bench

STRANGER = 12345
ID = "20250102T030405-abc123"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user takes root")


@pytest.fixture
def waiting(bench: Bench, tmp_path: Path) -> str:
    """A queued run of another user's engine, in the default runs folder."""
    other = Bench(tmp_path / "other")
    other.runs = bench.runs
    engine = other.start(Settings(disk_floor=10**18))
    run = other.submit(engine)
    other.until(engine, run, "blocked")
    other.stop(engine)
    return run


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may read, unlike those of this test."""
    with tempfile.TemporaryDirectory(prefix="mg-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def look(engine: Engine, runs: Path, run: str) -> None:
    """Every request that only reads."""
    engine.runs(runs)
    engine.find(runs, run)
    engine.find(runs, None)
    engine.run(runs, run)
    engine.view("/socket")


def stays(bench: Bench, engine: Engine, run: str, runs: Path) -> str:
    """Read the folder repeatedly; returns the reason why the run stays queued."""
    deadline = time.monotonic() + 0.6
    while time.monotonic() < deadline:
        look(engine, runs, run)
        engine._scheduler.wake()
        time.sleep(0.02)
    assert not list((runs / run / "jobs").glob("*/attempts/*"))
    view = engine.run(runs, run)
    assert view.state == "blocked" and view.reason is not None
    return view.reason


def test_a_run_that_others_queued_does_not_start(bench: Bench, waiting: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in bench.runs.rglob("*")}
    engine = bench.start()
    assert "was not submitted to this engine" in stays(bench, engine, waiting, bench.runs)
    bench.stop(engine)
    engine = bench.start()
    assert "was not submitted to this engine" in stays(bench, engine, waiting, bench.runs)
    assert engine.view("").queued == 0
    # Nothing was written or swept there either, and nothing is remembered.
    assert {path: path.stat().st_mtime_ns for path in bench.runs.rglob("*")} == before
    bench.stop(engine)
    registry = Registry(bench.state / "registry.sqlite")
    assert registry.runs == []
    registry.close()
    engine = bench.start()
    bench.act(engine, waiting, "resume")
    bench.until(engine, waiting, "succeeded")


@pytest.mark.parametrize("home", ["forged", "missing"])
def test_a_copy_does_not_use_the_recorded_folder(
    bench: Bench, waiting: str, home: str, tmp_path: Path
) -> None:
    received = tmp_path / "received"
    shutil.copytree(bench.runs, received)
    desired = received / waiting / "jobs" / "0001" / "desired_state.json"
    facts = read_record(desired) or {}
    if home == "forged":
        facts["home"] = str(received / waiting)
    else:
        del facts["home"]
    write_record(desired, facts)
    engine = bench.start()
    reason = stays(bench, engine, waiting, received)
    assert ("was copied or moved here from elsewhere" in reason) == (home == "missing")


def test_a_copy_in_the_place_of_a_run_that_waits_does_not_start(
    bench: Bench, waiting: str, tmp_path: Path
) -> None:
    engine = bench.start(Settings(disk_floor=10**18))
    bench.act(engine, waiting, "resume")
    bench.stop(engine)
    desired = bench.runs / waiting / "jobs" / "0001" / "desired_state.json"
    write_record(desired, {**(read_record(desired) or {}), "home": "/somebody/elses"})
    engine = bench.start()
    assert "moved here from /somebody/elses" in stays(bench, engine, waiting, bench.runs)


@needs_root
def test_nothing_starts_in_files_of_another_user(bench: Bench, waiting: str) -> None:
    for path in ("", "run_config.yaml", "jobs/0001/request.json"):
        file = bench.runs / waiting / path
        os.chown(file, STRANGER, STRANGER)
        engine = bench.start()
        with pytest.raises(ConflictError, match=f"belongs to user {STRANGER}, not to you"):
            bench.act(engine, waiting, "resume")
        again = SubmitRun(id=waiting, runs_dir=str(bench.runs), config=CONFIG)
        with pytest.raises(ConflictError, match=f"belongs to user {STRANGER}"):
            engine.submit(again)
        stays(bench, engine, waiting, bench.runs)
        bench.stop(engine)
        os.chown(file, 0, 0)
    engine = bench.start()
    bench.act(engine, waiting, "resume")
    bench.until(engine, waiting, "succeeded")


@needs_root
def test_files_that_change_hands_while_a_run_waits(bench: Bench) -> None:
    engine = bench.start()
    first = bench.submit(engine, {"wait_for": "go"})
    second = bench.submit(engine)
    os.chown(bench.runs / second / "run_config.yaml", STRANGER, STRANGER)
    bench.allow(first)
    view = bench.until(engine, second, "blocked")
    assert "run_config.yaml belongs to user" in (view.reason or "")
    third = bench.submit(engine)
    bench.until(engine, third, "succeeded")
    assert not bench.attempts(second)


@pytest.mark.parametrize("exposed", ["runs", "above", "run"])
def test_where_others_may_write_runs_start_after_consent(
    bench: Bench, open_folder: Path, exposed: str
) -> None:
    engine = bench.start(Settings(disk_floor=10**18))
    bench.runs = open_folder / "shared" / "runs"
    bench.runs.mkdir(parents=True)
    for folder in (bench.runs.parent, bench.runs):
        folder.chmod(0o755)
    run = bench.submit(engine)
    (bench.runs / run).chmod(0o755)
    bench.act(engine, run, "pause")
    place = {"runs": bench.runs, "above": bench.runs.parent, "run": bench.runs / run}[exposed]
    place.chmod(0o777)
    words = f"{place} may be written by others"
    with pytest.raises(ConflictError, match=words):
        bench.act(engine, run, "resume")
    if exposed != "run":
        with pytest.raises(ConflictError, match=words):
            bench.submit(engine)
    place.chmod(0o755)
    bench.act(engine, run, "resume")
    place.chmod(0o777)
    bench.stop(engine)
    engine = bench.start()
    view = bench.until(engine, run, "blocked")
    assert view.reason is not None and words in view.reason
    assert view.reason.endswith(f"magic engine allow {bench.runs}")
    engine.allow(bench.runs)
    bench.until(engine, run, "succeeded")
    bench.until(engine, bench.submit(engine), "succeeded")
    engine.forget(bench.runs)
    with pytest.raises(ConflictError, match=words):
        bench.ask(engine, run)


def test_behind_a_link_both_places_count(bench: Bench, open_folder: Path) -> None:
    engine = bench.start(Settings(disk_floor=10**18))
    run = bench.submit(engine)
    bench.act(engine, run, "pause")
    for name in ("link", "target"):
        (open_folder / name).mkdir(mode=0o755)
    shutil.copytree(bench.runs / run, open_folder / "target" / run)
    (open_folder / "link" / run).symlink_to(open_folder / "target" / run)
    bench.runs = open_folder / "link"
    for exposed in ("link", "target"):
        (open_folder / exposed).chmod(0o777)
        with pytest.raises(ConflictError, match=f"{open_folder / exposed} may be written by"):
            bench.act(engine, run, "resume")
        (open_folder / exposed).chmod(0o755)
    bench.act(engine, run, "resume")


def test_a_forgotten_folder_starts_nothing_more(bench: Bench) -> None:
    engine = bench.start()
    first = bench.submit(engine, {"wait_for": "go"})
    bench.until(engine, first, "running")
    second = bench.submit(engine)
    engine.allow(bench.runs)
    assert engine.forget(bench.runs) == 2
    bench.allow(first)
    bench.until(engine, first, "succeeded")
    assert "was not submitted" in stays(bench, engine, second, bench.runs)
    bench.act(engine, second, "resume")
    bench.until(engine, second, "succeeded")
    bench.stop(engine)
    registry = Registry(bench.state / "registry.sqlite")
    assert registry.paths_with_fact(SHARED) == []
    registry.close()


def test_a_submission_that_was_cut_off_succeeds_when_repeated(bench: Bench) -> None:
    engine = bench.start(Settings(disk_floor=10**18))
    run = bench.submit(engine)
    bench.stop(engine)
    # As if the engine had been killed before it noted the run.
    (bench.state / "registry.sqlite").unlink()
    engine = bench.start()
    _, created = engine.submit(SubmitRun(id=run, runs_dir=str(bench.runs), config=CONFIG))
    assert not created
    bench.until(engine, run, "succeeded")


def test_a_queue_entry_without_a_run_is_dropped(bench: Bench) -> None:
    engine = bench.start()
    bench.runs.mkdir(exist_ok=True)
    engine._registry.enqueue([(bench.runs / ID, 1)])
    engine._scheduler._looked = -1e9
    engine._scheduler.wake()
    deadline = time.monotonic() + 10
    while engine._registry.runs and time.monotonic() < deadline:
        time.sleep(0.02)
    assert engine._registry.runs == []


def test_a_removed_run_with_queued_jobs_is_not_listed(bench: Bench) -> None:
    engine = bench.start(Settings(disk_floor=10**18))
    run = bench.submit(engine)
    bench.until(engine, run, "blocked")
    os.rename(bench.runs / run, bench.runs.parent / run)
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        engine._scheduler.wake()
        assert engine.runs(bench.runs) == []
        time.sleep(0.01)


def test_folders_that_were_read_are_forgotten_later(
    bench: Bench, waiting: str, tmp_path: Path
) -> None:
    engine = bench.start()
    for number in range(20):
        (tmp_path / f"looked-{number}").mkdir()
        engine.runs(tmp_path / f"looked-{number}")
    assert len(engine._index._folders) <= 17
