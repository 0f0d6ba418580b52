"""Contents of a view, how rarely it reads files, and runs that cannot be read."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from engine.daemon import run_facts
from engine.daemon.run_monitor import RunMonitor
from engine.runs.errors import ConflictError
from engine.runs.journal import JournalWriter
from engine.runs.run_progress import JournalFold, RunProgress
from engine.runs.submission import submit_run
from tests.cli.fake_run import FakeRun
from tests.daemon.conftest import CONFIG, Bench

RUN = "20250102T030405-abc123"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all its files, and a job that succeeded."""
    runs = tmp_path_factory.mktemp("finished")
    folder = FakeRun().write(runs).path
    job = submit_run(runs, "20250102T030405-abc124", CONFIG)
    shutil.move(job.run.path / "jobs", folder / "jobs")
    attempt, lock = type(job)(folder / "jobs" / "0001").new_attempt()
    attempt.write_exit("done")  # type: ignore[arg-type]
    os.close(lock)
    past = time.time() - 3600
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (past, past))
    return folder


def watch(path: Path) -> RunMonitor:
    return RunMonitor(path, lambda: None)


def test_a_finished_run(finished: Path) -> None:
    view = watch(finished).view()
    assert (view.id, view.name, view.model, view.state) == (
        RUN, "my run", "/models/tiny", "succeeded"
    )  # fmt: skip
    assert (view.steps, view.total_steps, view.documents, view.attributions) == (12, 12, 23, 1)
    assert view.trajectory_bytes == 5000 and view.scores_bytes > 1000
    assert view.created is not None and view.events == 18 and view.memory == 10


def test_a_settled_run_is_not_read_again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[int] = []
    run = RunMonitor(finished, lambda: changes.append(1))
    first = run.view()

    def fail(*arguments: Any) -> Any:
        raise AssertionError("read again")

    monkeypatch.setattr(run_facts, "size_on_disk", fail)
    monkeypatch.setattr(run_facts, "count_documents", fail)
    monkeypatch.setattr(run_facts.Identity, "read", fail)
    monkeypatch.setattr("engine.runs.jobs.JobFolder.facts", fail)
    assert run.view() == first and changes == [1]
    assert run._progress._reader._file is None


def test_the_bytes_of_a_run_at_work_are_counted_seldom(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[Path] = []
    real = run_facts.size_on_disk
    monkeypatch.setattr(run_facts, "size_on_disk", lambda path: counted.append(path) or real(path))
    engine = bench.start()
    run = bench.submit(engine, {"wait_for": "go", "steps": 50, "seconds": 0.005})
    bench.until(engine, run, lambda view: view.steps == 50)
    while_at_work = len(counted)
    bench.allow(run)
    done = bench.until(engine, run, "succeeded")
    assert while_at_work <= 8 and done.trajectory_bytes == real(bench.runs / run / "trajectory")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("run_config.yaml", b"[", "is damaged"),
        ("run_config.yaml", b"magic: {format_version: 99}\n", "has format version 99"),
        ("events.jsonl", b"{}\n", "events.jsonl: line 1 is damaged"),
        ("jobs/0001/request.json", b"{", "request.json is missing or damaged"),
        ("jobs/0001/desired_state.json", b"nonsense", "desired_state.json is damaged"),
        ("jobs/0001/desired_state.json", b'{"desired_state": "fly"}', "is damaged (ValueError"),
        ("jobs/0001/attempts/0001/exit.json", b'{"x": 1}', "is damaged (KeyError"),
        ("jobs/0001/attempts/0001/exit.json", b'{"ending": "odd"}', "is damaged (ValueError"),
    ],
)
def test_a_run_that_cannot_be_read(
    finished: Path, tmp_path: Path, file: str, content: bytes, words: str
) -> None:
    copy = tmp_path / RUN
    shutil.copytree(finished, copy)
    (copy / file).write_bytes(content)
    view = watch(copy).view()
    assert view.state == "unreadable" and view.id == RUN and view.path == str(copy)
    assert view.reason is not None and words in view.reason


def test_a_run_becomes_readable_again(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / RUN
    shutil.copytree(finished, copy)
    run = watch(copy)
    good = (copy / "run_config.yaml").read_bytes()
    (copy / "run_config.yaml").write_bytes(b"[")
    assert run.view().state == "unreadable"
    (copy / "run_config.yaml").write_bytes(good)
    assert run.view().state == "succeeded"


def test_a_run_without_jobs(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / RUN
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("jobs"))
    view = watch(copy).view()
    assert view.state == "unreadable" and "it has no jobs" in (view.reason or "")
    manifest = JournalWriter(copy / "trajectory" / "manifest.jsonl")
    manifest.append("schedule", kind="all", steps=12)
    manifest.append("complete")
    manifest.close()
    assert watch(copy).view().state == "succeeded"


def test_one_unreadable_run_stops_no_other(bench: Bench) -> None:
    engine = bench.start()
    bad = bench.submit(engine, {"wait_for": "go"})
    bench.until(engine, bad, "running")
    request = bench.runs / bad / "jobs" / "0001" / "desired_state.json"
    bench.act(engine, bad, "pause")
    bench.until(engine, bad, "paused")
    request.write_text("{")
    bench.until(engine, bad, "unreadable")
    with pytest.raises(ConflictError, match=r"cannot be read: .*desired_state.json is damaged"):
        bench.act(engine, bad, "resume")
    good = bench.submit(engine)
    bench.until(engine, good, "succeeded")
    assert {view.state for view in engine.runs(bench.runs)} == {"unreadable", "succeeded"}


def test_a_journal_that_was_put_back(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / RUN
    shutil.copytree(finished, copy)
    run = watch(copy)
    events = (copy / "events.jsonl").read_bytes()
    assert run.view().events == 18
    (copy / "events.jsonl").write_bytes(b"".join(events.splitlines(keepends=True)[:8]))
    view = run.view()
    assert (view.events, view.steps) == (8, 4)


def test_a_long_journal_takes_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    journal = JournalWriter(tmp_path / "events.jsonl")
    journal.append("phase", phase="train", total=5_000)
    for step in range(5_000):
        journal.append("train_step", step=step, loss=1.0, seconds=0.1, memory=5, text="x" * 500)
    journal.close()
    tracemalloc.start()
    progress = JournalFold(tmp_path / "events.jsonl", RunProgress).update()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert progress.steps == 5_000
    assert peak < 3_000_000 < os.path.getsize(tmp_path / "events.jsonl")
