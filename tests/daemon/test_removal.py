"""Removing runs and trajectories, and completing the removals of an engine that was killed."""

import os
import time
from pathlib import Path

import pytest

from engine.daemon.registry import Registry
from engine.runs.errors import ConflictError, NotFoundError
from tests.daemon.conftest import Bench


def test_a_run_is_removed(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine)
    view = bench.until(engine, run, "succeeded")
    removed = engine.remove(bench.runs, run, "run")
    assert removed.removed == view.path and removed.freed_bytes > view.trajectory_bytes
    assert list(bench.runs.iterdir()) == [] and engine.runs(bench.runs) == []
    with pytest.raises(NotFoundError):
        engine.remove(bench.runs, run, "run")


def test_a_trajectory_is_removed_alone(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine)
    size = bench.until(engine, run, "succeeded").trajectory_bytes
    removed = engine.remove(bench.runs, run, "trajectory")
    assert removed.removed == str(bench.runs / run / "trajectory") and removed.freed_bytes == size
    view = engine.run(bench.runs, run)
    assert (view.state, view.trajectory_bytes) == ("succeeded", 0)
    with pytest.raises(ConflictError, match="or the trajectory was removed"):
        bench.ask(engine, run)
    assert engine.remove(bench.runs, run, "trajectory").freed_bytes == 0


def test_behind_a_link_nothing_is_removed(bench: Bench, tmp_path: Path) -> None:
    engine = bench.start()
    run = bench.submit(engine)
    bench.until(engine, run, "succeeded")
    os.rename(bench.runs / run / "trajectory", tmp_path / "moved")
    (bench.runs / run / "trajectory").symlink_to(tmp_path / "moved")
    assert engine.remove(bench.runs, run, "trajectory").freed_bytes == 0
    assert not os.path.lexists(bench.runs / run / "trajectory")
    assert (tmp_path / "moved" / "manifest.jsonl").exists()


def test_what_is_needed_stays(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"wait_for": "go"})
    bench.until(engine, run, "running")
    for what in ("run", "trajectory"):
        with pytest.raises(ConflictError, match=f"job 1 of run {run} is running; wait until"):
            engine.remove(bench.runs, run, what)  # type: ignore[arg-type]
    bench.act(engine, run, "pause")
    bench.until(engine, run, "paused")
    with pytest.raises(ConflictError, match="is paused and needs the trajectory"):
        engine.remove(bench.runs, run, "trajectory")
    engine.remove(bench.runs, run, "run")
    assert not (bench.runs / run).exists()


def test_a_queued_attribution_keeps_the_trajectory(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine)
    bench.until(engine, run, "succeeded")
    other = bench.submit(engine, {"wait_for": "go"})
    bench.until(engine, other, "running")
    bench.ask(engine, run)
    with pytest.raises(ConflictError, match=f"job 2 of run {run} is queued"):
        engine.remove(bench.runs, run, "trajectory")
    bench.act(engine, run, "cancel")
    engine.remove(bench.runs, run, "trajectory")


def test_a_run_that_another_program_holds_stays(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine)
    bench.until(engine, run, "succeeded")
    folder = engine._index.find(bench.runs, run).folder
    with folder.lock(), pytest.raises(ConflictError, match="in use by another process"):
        engine.remove(bench.runs, run, "run")
    assert (bench.runs / run).exists()


def test_half_done_removals_are_finished_at_the_start(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine)
    bench.until(engine, run, "succeeded")
    bench.stop(engine)
    left = [
        bench.runs / ".20250102T030405-abc123.removed",
        bench.runs / run / ".trajectory.removed",
        bench.runs / run / "attributions" / ".a0007.removed",
        bench.runs / ".20250102T030405-abc124.new",
    ]
    for folder in left:
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "file").write_bytes(b"x")
        old = time.time() - 3600
        os.utime(folder, (old, old))
    # As an engine does that is killed in the middle of it.
    registry = Registry(bench.state / "registry.sqlite")
    registry.set_fact(bench.runs, "removing")
    registry.close()
    other_folder = bench.runs / ".something.removed"
    other_folder.mkdir()
    bench.start()
    deadline = time.monotonic() + 10
    while any(folder.exists() for folder in left) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [folder.name for folder in left if folder.exists()] == []
    assert other_folder.exists() and (bench.runs / run).exists()


def test_an_unreadable_run_can_be_removed(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine)
    bench.until(engine, run, "succeeded")
    (bench.runs / run / "jobs" / "0001" / "request.json").write_text("{")
    bench.stop(engine)
    engine = bench.start()
    assert engine.run(bench.runs, run).state == "unreadable"
    engine.remove(bench.runs, run, "run")
    assert engine.runs(bench.runs) == []
