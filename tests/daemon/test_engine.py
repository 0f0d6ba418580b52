"""One engine after another, and many runs at once."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from engine.daemon import scheduler
from engine.daemon.settings import Settings
from engine.runs.api_schema import RunView, SubmitRun, SubmitValidation
from engine.runs.errors import ConflictError, NotFoundError, UsageError
from engine.runs.states import DesiredState, Ending
from tests.daemon.conftest import CONFIG, NO_FLOOR, Bench


def test_a_new_engine_adopts_a_running_run(bench: Bench) -> None:
    first = bench.start()
    run = bench.submit(first, {"wait_for": "go"})
    bench.until(first, run, "running")
    bench.stop(first)
    second = bench.start()
    assert bench.until(second, run, "running").jobs[0].attempts == 1
    bench.act(second, run, "pause")
    bench.until(second, run, "paused")
    bench.act(second, run, "resume")
    bench.allow(run)
    bench.until(second, run, "succeeded")
    assert len(bench.attempts(run)) == 2


def test_a_run_ends_while_no_engine_is_there(bench: Bench) -> None:
    first = bench.start()
    run = bench.submit(first, {"wait_for": "go"})
    waiting = bench.submit(first)
    bench.until(first, run, "running")
    bench.stop(first)
    bench.allow(run)
    while bench.attempts(run)[0].is_held():
        time.sleep(0.01)
    second = bench.start()
    assert bench.until(second, run, "succeeded").jobs[0].attempts == 1
    bench.until(second, waiting, "succeeded")


def test_a_desired_state_set_without_an_engine_is_reached_by_the_next(bench: Bench) -> None:
    first = bench.start()
    run = bench.submit(first, {"wait_for": "go"})
    bench.until(first, run, "running")
    bench.stop(first)
    bench.job(run).set_desired_state(DesiredState.PAUSED)
    second = bench.start()
    bench.until(second, run, "paused")


def test_jobs_that_died_without_an_engine_resume_with_the_next(bench: Bench) -> None:
    first = bench.start()
    run = bench.submit(first, {"wait_for": "go"})
    bench.until(first, run, "running")
    bench.stop(first)
    os.kill(bench.supervisor(run), signal.SIGKILL)
    second = bench.start()
    bench.until(second, run, lambda view: view.jobs[0].attempts == 2)
    bench.allow(run)
    bench.until(second, run, "succeeded")


def test_one_run_at_a_time_in_the_order_of_submission(bench: Bench) -> None:
    engine = bench.start()
    first = bench.submit(engine, {"wait_for": "go"})
    bench.until(engine, first, "running")
    others = [bench.submit(engine, {"wait_for": "go"}) for _ in range(3)]
    for position, other in enumerate(others):
        view = bench.until(
            engine, other, lambda view: bool(view.job and view.job.queue_position is not None)
        )
        assert view.state == "queued" and view.job and view.job.queue_position == position
        assert view.reason == f"waits for its turn: run {first} is running"
    overview = engine.view("/socket")
    assert (overview.queued, overview.running) == (3, 1)
    for run in (first, *others):
        bench.until(engine, run, "running")
        at_work = [view.id for view in engine.runs(bench.runs) if view.state == "running"]
        assert at_work == [run]
        bench.allow(run)
        bench.until(engine, run, "succeeded")


def test_as_many_runs_as_are_allowed(bench: Bench) -> None:
    engine = bench.start(Settings(disk_floor=0, cpu_runs=2))
    runs = [bench.submit(engine, {"wait_for": "go"}) for _ in range(3)]
    for run in runs[:2]:
        bench.until(engine, run, "running")
    assert engine.run(bench.runs, runs[2]).state == "queued"
    bench.allow(runs[1])
    bench.until(engine, runs[2], "running")


def test_a_lost_registry_costs_what_waits_a_resume(bench: Bench) -> None:
    first = bench.start()
    runs = [bench.submit(first, {"wait_for": "go"}) for _ in range(3)]
    bench.until(first, runs[0], "running")
    bench.stop(first)
    (bench.state / "registry.sqlite").unlink()
    second = bench.start()
    bench.until(second, runs[0], "running")
    for run in runs[1:]:
        view = bench.until(second, run, "blocked")
        assert view.reason == (
            "was not submitted to this engine, or the engine's record of it was lost; resume "
            f"it with: magic resume {run}"
        )
        bench.act(second, run, "resume")
    for position, run in enumerate(runs[1:]):
        view = bench.until(
            second, run, lambda view: bool(view.job and view.job.queue_position is not None)
        )
        assert view.job is not None and view.job.queue_position == position
    for run in runs:
        bench.allow(run)
        bench.until(second, run, "succeeded")


def test_a_running_run_is_adopted_in_any_folder(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.start()
    run = bench.submit(first, {"wait_for": "go"})
    bench.until(first, run, "running")
    bench.stop(first)
    (bench.state / "registry.sqlite").unlink()
    monkeypatch.setenv("MAGIC_RUNS", str(tmp_path / "elsewhere"))
    second = bench.start()
    assert second.view("").running == 1
    bench.allow(run)
    while second.view("").running:
        time.sleep(0.01)
    assert bench.exit(run)["ending"] == Ending.DONE


def test_an_attribution_waits_for_the_training(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"wait_for": "go"})
    view = bench.ask(engine, run)
    assert [(job.work, job.attribution) for job in view.jobs] == [
        ("run", None), ("attribute", "a0001")
    ]  # fmt: skip
    view = bench.until(engine, run, lambda view: view.jobs[1].reason is not None)
    assert (view.jobs[1].state, view.jobs[1].reason) == ("queued", "waits for job 1 of this run")
    bench.act(engine, run, "pause")
    bench.until(engine, run, lambda view: all(job.state == "paused" for job in view.jobs))
    bench.act(engine, run, "resume")
    bench.allow(run)
    view = bench.until(engine, run, "succeeded")
    assert view.attributions == 1 and [job.state for job in view.jobs] == ["succeeded"] * 2
    assert bench.ask(engine, run).jobs[2].attribution == "a0002"
    assert bench.until(engine, run, "succeeded").attributions == 2


def test_an_attribution_waits_for_a_paused_training(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"wait_for": "go"})
    bench.until(engine, run, "running")
    bench.act(engine, run, "pause")
    bench.until(engine, run, "paused")
    bench.ask(engine, run)
    view = bench.until(engine, run, lambda view: view.jobs[1].reason is not None)
    assert view.jobs[1].reason == (
        f"waits for job 1 of this run, which is paused; resume it with: magic resume {run}"
    )


def _is_gone(view: RunView, staging: Path) -> bool:
    return view.jobs[1].state == "cancelled" and not staging.exists()


def test_a_cancelled_attribution_leaves_nothing(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine)
    bench.until(engine, run, "succeeded")
    bench.ask(engine, run, {"steps": 1, "wait_for": "never"})
    staging = bench.runs / run / "attributions" / ".a0001.new"
    bench.until(engine, run, lambda view: staging.exists())
    bench.act(engine, run, "cancel")
    bench.until(
        engine, run, lambda view: view.jobs[1].state == "cancelled" and not staging.exists()
    )
    assert list(staging.parent.iterdir()) == []


def test_a_validation_is_a_job_of_its_run(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine)
    bench.until(engine, run, "succeeded")
    with pytest.raises(UsageError, match="has no complete attribution"):
        engine.validate(bench.runs, run, SubmitValidation())
    bench.ask(engine, run)
    bench.until(engine, run, "succeeded")
    environment = {"HF_FAKE_RANK": json.dumps([{"steps": 1, "wait_for": "never"}])}
    view = engine.validate(bench.runs, run, SubmitValidation(environment=environment))
    job = view.jobs[-1]
    assert (job.number, job.work, job.attribution) == (3, "validate", "a0001")
    bench.until(engine, run, "running")
    bench.act(engine, run, "cancel")
    bench.until(engine, run, "cancelled")
    assert engine.run(bench.runs, run).attributions == 1
    engine.validate(bench.runs, run, SubmitValidation())
    bench.until(engine, run, lambda view: view.jobs[-1].state == "succeeded")


def test_no_trajectory_no_attribution(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"end": "fail"})
    bench.until(engine, run, "failed")
    with pytest.raises(ConflictError, match=f"run {run} has no trajectory to replay"):
        bench.ask(engine, run)


def test_submitting_again_changes_nothing(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"wait_for": "go"})
    again = SubmitRun(id=run, runs_dir=str(bench.runs), config=CONFIG)
    view, created = engine.submit(again)
    assert not created and view.id == run
    other = again.model_copy(update={"config": CONFIG.model_copy(update={"seed": 1})})
    with pytest.raises(ConflictError, match="another config"):
        engine.submit(other)
    assert len(engine.runs(bench.runs)) == 1


def test_what_a_killed_engine_left_of_a_submission_is_no_obstacle(bench: Bench) -> None:
    engine = bench.start()
    wanted = SubmitRun(id="20250102T030405-abc123", runs_dir=str(bench.runs), config=CONFIG)
    (bench.runs / f".{wanted.id}.new" / "jobs").mkdir(parents=True)
    assert engine.submit(wanted)[1]


def test_a_folder_that_cannot_be_written(bench: Bench, tmp_path: Path) -> None:
    engine = bench.start()
    (tmp_path / "file").touch()
    wanted = SubmitRun(
        id="20250102T030405-abc123", runs_dir=str(tmp_path / "file" / "runs"), config=CONFIG
    )
    with pytest.raises(UsageError, match="cannot store runs in"):
        engine.submit(wanted)


def test_many_threads_submit_at_once(bench: Bench) -> None:
    engine = bench.start(Settings(disk_floor=10**18))
    submitted: list[str] = []
    threads = [
        threading.Thread(target=lambda: submitted.append(bench.submit(engine))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    views = engine.runs(bench.runs)
    assert {view.id for view in views} == set(submitted) and len(submitted) == 8
    views = [
        bench.until(engine, view.id, lambda v: bool(v.job and v.job.queue_position is not None))
        for view in views
    ]
    assert {view.job.queue_position for view in views if view.job} == set(range(8))


def test_finding_runs(bench: Bench) -> None:
    engine = bench.start()
    with pytest.raises(NotFoundError, match="there are no runs in"):
        engine.find(bench.runs, None)
    first, second = bench.submit(engine), bench.submit(engine)
    assert engine.find(bench.runs, None).id == second
    assert engine.find(bench.runs, first).id == first
    with pytest.raises(ConflictError, match="'mine' matches 2 runs"):
        engine.find(bench.runs, "mine")
    with pytest.raises(NotFoundError, match="has the id, prefix or name 'x'"):
        engine.find(bench.runs, "x")
    for bad in ("x", "../runs", "20250102T030405-abc123"):
        with pytest.raises(NotFoundError, match="there is no run"):
            engine.run(bench.runs, bad)


def test_all_names_of_a_folder_are_one_folder(bench: Bench, tmp_path: Path) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"wait_for": "go"})
    (tmp_path / "link").symlink_to(bench.runs)
    assert engine.run(tmp_path / "link", run).path == str(bench.runs / run)
    assert len(engine._index.all()) == 1


def test_runs_that_come_and_go_by_hand(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine)
    bench.until(engine, run, "succeeded")
    changes = engine.changes()
    os.rename(bench.runs / run, bench.runs.parent / run)
    assert engine.runs(bench.runs) == [] and engine.changes() > changes
    with pytest.raises(NotFoundError):
        engine.run(bench.runs, run)
    os.rename(bench.runs.parent / run, bench.runs / run)
    assert [view.state for view in engine.runs(bench.runs)] == ["succeeded"]


def test_an_idle_engine_sleeps(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = bench.start()
    run = bench.submit(engine)
    bench.until(engine, run, "succeeded")
    rounds: list[float] = []
    original = engine._scheduler.round

    def counted() -> float:
        rounds.append(original())
        return rounds[-1]

    monkeypatch.setattr(engine._scheduler, "round", counted)
    engine._scheduler.wake()
    deadline = time.monotonic() + 15
    while not rounds or rounds[-1] != scheduler.IDLE_SECONDS:
        assert time.monotonic() < deadline, rounds
        time.sleep(0.01)
    # An idle round returns a long pause, so no further one follows soon.
    count = len(rounds)
    time.sleep(0.3)
    assert len(rounds) == count
    # The scheduler is alive: the next submission runs.
    bench.until(engine, bench.submit(engine), "succeeded")
    assert len(rounds) > count


def test_a_pid_that_is_another_process_now_gets_no_signal(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"wait_for": "go"})
    bench.until(engine, run, "running")
    attempt = bench.attempts(run)[0]
    real = attempt.about()
    attempt.write_about(started=real["started"] + 1)
    bench.act(engine, run, "cancel")
    time.sleep(0.2)
    assert engine.run(bench.runs, run).state == "cancelling"
    assert psutil.pid_exists(real["pid"]) and attempt.is_held()
    attempt.write_about(started=real["started"])
    bench.until(engine, run, "cancelled")


def test_settings_come_from_the_environment() -> None:
    assert Settings.from_environment({}) == Settings(10**9, 1)
    given = {"MAGIC_DISK_FLOOR_GB": "0.5", "MAGIC_CPU_RUNS": "3"}
    assert Settings.from_environment(given) == Settings(5 * 10**8, 3)
    for name, value in [
        ("MAGIC_DISK_FLOOR_GB", "x"),
        ("MAGIC_DISK_FLOOR_GB", "-1"),
        ("MAGIC_DISK_FLOOR_GB", "nan"),
        ("MAGIC_DISK_FLOOR_GB", "inf"),
        ("MAGIC_CPU_RUNS", "0"),
        ("MAGIC_CPU_RUNS", "1.5"),
    ]:
        with pytest.raises(UsageError, match=f"{name} is '{value}'"):
            Settings.from_environment({name: value})


def test_the_overview_is_of_this_process(bench: Bench) -> None:
    view = bench.start(NO_FLOOR).view("/tmp/socket")
    assert (view.pid, view.socket, view.disk_floor) == (os.getpid(), "/tmp/socket", 0)
    assert 0 < view.memory_used < view.memory_total and view.disk_free > 0
    assert json.loads(view.model_dump_json())["queued"] == 0
