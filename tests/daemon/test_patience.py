"""A folder whose file operations hang is skipped, and the others are served."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.daemon import scheduler, slow_folders
from engine.daemon.run_monitor import RunMonitor
from engine.daemon.slow_folders import FolderTimeouts, HungError
from engine.runs.errors import RunError
from tests.daemon.conftest import Bench

A, B, C, D = (Path(f"/runs/{name}") for name in "abcd")
ELSEWHERE = Path("/other/a")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hanging calls return when this is set; all timeouts are short."""
    monkeypatch.setattr(slow_folders, "RUN_SECONDS", 0.5)
    monkeypatch.setattr(slow_folders, "FOLDER_SECONDS", 1.0)
    gate = threading.Event()
    yield gate
    gate.set()


def until(holds: object) -> None:
    deadline = time.monotonic() + 10
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_hangs_is_set_aside_until_it_answers(gate: threading.Event) -> None:
    hung, seen = FolderTimeouts(), []

    def look(path: Path) -> None:
        if path == B:
            gate.wait()
        seen.append(path)

    hung.for_each([A, B, C], look)
    assert seen == [A, C] and hung.is_hung(B) and not hung.is_hung(A)
    hung.for_each([A, B, C], look)
    assert seen == [A, C, A, C]
    gate.set()
    until(lambda: not hung.is_hung(B))
    hung.for_each([B], look)
    assert seen == [A, C, A, C, B, B]


def test_two_that_hang_set_their_folder_aside(gate: threading.Event) -> None:
    hung, seen = FolderTimeouts(), []

    def look(path: Path) -> None:
        seen.append(path)
        if path.parent == A.parent:
            gate.wait()

    hung.for_each([A, B, C, D, ELSEWHERE], look)
    assert seen == [A, B, ELSEWHERE] and hung.is_hung(D) and not hung.is_hung(ELSEWHERE)
    gate.set()
    until(lambda: not hung.is_hung(D))


def test_one_action_with_a_limit(gate: threading.Event) -> None:
    hung = FolderTimeouts()
    assert hung.call(A, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        hung.call(A, lambda: 1 // 0)
    for _ in range(2):
        with pytest.raises(HungError, match="/runs/a does not answer"):
            hung.call(A, gate.wait)
    assert hung.call(B, lambda: 7) == 7


def test_a_run_that_hangs_holds_up_no_other(
    bench: Bench, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_ACTION_SECONDS", 0.05)
    engine = bench.start()
    first = bench.submit(engine, {"wait_for": "go"})
    bench.until(engine, first, "running")
    real = RunMonitor.refresh

    def refresh(watch: RunMonitor) -> None:
        if watch.folder.id == first:
            with watch._lock:
                gate.wait()
        real(watch)

    monkeypatch.setattr(RunMonitor, "refresh", refresh)
    until(lambda: engine._timeouts.is_hung(bench.runs / first))
    bench.allow(first)
    second = bench.submit(engine)
    bench.until(engine, second, "succeeded")
    with pytest.raises(RunError, match="does not answer"):
        engine.run(bench.runs, first)
    with pytest.raises(RunError, match="does not answer"):
        engine.act(bench.runs, first, "pause")
    assert [view.state for view in engine.runs(bench.runs)] == ["unreadable", "succeeded"]
    gate.set()
    bench.until(engine, first, "succeeded")


def test_a_folder_that_hangs_holds_up_no_other(
    bench: Bench, tmp_path: Path, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.daemon import run_index

    engine, hung = bench.start(), tmp_path / "hung"
    hung.mkdir()
    real = run_index.list_runs
    monkeypatch.setattr(
        run_index, "list_runs", lambda runs: gate.wait() and [] if runs == hung else real(runs)
    )
    for _ in range(3):
        with pytest.raises(RunError, match=f"{hung} does not answer"):
            engine.runs(hung)
    run = bench.submit(engine)
    bench.until(engine, run, "succeeded")
    assert engine.view("").queued == 0
    gate.set()
    assert engine.runs(hung) == []
