"""The states of a job, from queued to each final state."""

import os
import signal

import psutil
import pytest

from engine.runs.errors import ConflictError
from engine.runs.states import DesiredState, Ending
from tests.daemon.conftest import Bench


def test_a_run_succeeds(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"steps": 3, "wait_for": "go"})
    running = bench.until(engine, run, lambda view: view.steps == 3)
    assert running.state == "running" and running.name == "mine" and running.model == "m"
    assert running.phase is not None and (running.phase.done, running.phase.total) == (3, 3)
    assert running.memory == 1002
    bench.allow(run)
    done = bench.until(engine, run, "succeeded")
    assert done.phase is None and done.reason is None and done.total_steps == 3
    assert [job.attempts for job in done.jobs] == [1]
    assert done.trajectory_bytes > 0
    assert bench.exit(run)["facts"]["run"] == run


def test_every_intermediate_state_is_reported(bench: Bench) -> None:
    engine = bench.start()
    before = engine.changes()
    run = bench.submit(engine, {"wait_for": "go"})
    seen = {engine.run(bench.runs, run).state}
    bench.until(engine, run, lambda view: seen.add(view.state) or view.state == "running")
    bench.allow(run)
    bench.until(engine, run, lambda view: seen.add(view.state) or view.state == "succeeded")
    assert {"starting", "running", "succeeded"} <= seen <= {
        "queued", "starting", "running", "succeeded"
    }  # fmt: skip
    assert engine.changes() >= before + 3


def test_a_failure_keeps_its_sentence_and_exit_code(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"end": "fail"})
    view = bench.until(engine, run, "failed")
    assert view.reason == "the loss is not finite; lower the rate"
    assert view.job is not None and view.job.exit_code == 2 and view.job.attempts == 1


def test_pause_and_resume(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"steps": 4, "wait_for": "go"})
    bench.until(engine, run, lambda view: view.steps == 4)
    assert bench.act(engine, run, "pause").state in ("pausing", "paused")
    assert bench.act(engine, run, "pause").state in ("pausing", "paused")
    paused = bench.until(engine, run, "paused")
    assert bench.exit(run)["ending"] == Ending.STOPPED
    assert paused.phase is not None and paused.phase.remaining_seconds is None
    bench.act(engine, run, "resume")
    bench.allow(run)
    done = bench.until(engine, run, "succeeded")
    assert done.jobs[0].attempts == 2 and done.steps == 4


def test_a_pause_is_taken_back_at_once(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"wait_for": "go"})
    bench.until(engine, run, "running")
    bench.act(engine, run, "pause")
    bench.act(engine, run, "resume")
    bench.until(engine, run, lambda view: view.jobs[0].attempts == 2)
    bench.allow(run)
    bench.until(engine, run, "succeeded")


def test_a_queued_run_is_paused_before_it_starts(bench: Bench) -> None:
    engine = bench.start()
    first = bench.submit(engine, {"wait_for": "go"})
    second = bench.submit(engine)
    assert bench.act(engine, second, "pause").state == "paused"
    bench.allow(first)
    bench.until(engine, first, "succeeded")
    assert engine.run(bench.runs, second).state == "paused" and not bench.attempts(second)
    bench.act(engine, second, "resume")
    bench.until(engine, second, "succeeded")


def test_cancel_and_resume(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"wait_for": "go"})
    bench.until(engine, run, "running")
    bench.act(engine, run, "cancel")
    bench.until(engine, run, "cancelled")
    assert bench.exit(run)["ending"] == Ending.STOPPED
    bench.act(engine, run, "resume")
    bench.allow(run)
    bench.until(engine, run, "succeeded")


def test_a_rank_that_does_not_obey_a_cancel_is_killed(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"wait_for": "never", "deaf": True})
    bench.until(engine, run, "running")
    bench.act(engine, run, "cancel")
    bench.until(engine, run, "cancelled")
    assert bench.exit(run)["signal"] == signal.SIGKILL
    assert bench.exit(run)["ending"] == Ending.STOPPED


def test_a_pause_waits_as_long_as_it_takes(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"steps": 2, "seconds": 0.6})
    bench.until(engine, run, "running")
    bench.act(engine, run, "pause")
    bench.until(engine, run, "paused")
    assert bench.exit(run)["message"] == "stopped"


def test_actions_that_do_not_apply(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"wait_for": "go"})
    bench.until(engine, run, "running")
    with pytest.raises(ConflictError, match="is running: there is nothing to resume"):
        bench.act(engine, run, "resume")
    bench.allow(run)
    bench.until(engine, run, "succeeded")
    for verb in ("pause", "resume", "cancel"):
        with pytest.raises(ConflictError, match=f"is succeeded: there is nothing to {verb}"):
            bench.act(engine, run, verb)


def test_a_result_beats_a_late_cancel(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"wait_for": "go"})
    bench.until(engine, run, "running")
    bench.stop(engine)
    bench.allow(run)
    job = bench.job(run)
    while job.state() != "succeeded":
        pass
    job.set_desired_state(DesiredState.CANCELLED)
    again = bench.start()
    assert bench.until(again, run, "succeeded").reason is None


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("die", "killed by SIGKILL; see"),
        ("silent", "exited with status 7 and no error"),
    ],
)
def test_a_rank_that_dies_is_tried_again(bench: Bench, end: str, words: str) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"end": end}, {"wait_for": "go"})
    bench.until(engine, run, lambda view: view.jobs[0].attempts == 2)
    assert words in bench.exit(run)["message"]
    bench.allow(run)
    bench.until(engine, run, "succeeded")


def test_a_crash_loop_fails_after_three_attempts(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"end": "useless"})
    view = bench.until(engine, run, "failed")
    assert view.jobs[0].attempts == 3 and view.jobs[0].exit_code == 1
    assert view.reason is not None
    assert view.reason.startswith("it ended 3 times in a row without progress: its pro")
    bench.act(engine, run, "resume")
    assert bench.until(engine, run, "failed").jobs[0].attempts >= 4


def test_attempts_that_make_progress_are_repeated(bench: Bench) -> None:
    engine = bench.start()
    orders = [{"steps": steps, "end": "die"} for steps in range(1, 5)]
    run = bench.submit(engine, *orders, {"steps": 5})
    assert bench.until(engine, run, "succeeded").jobs[0].attempts == 5


def test_a_killed_supervisor_takes_its_rank_along(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"wait_for": "go"})
    bench.until(engine, run, "running")
    rank = bench.rank(run)
    os.kill(bench.supervisor(run), signal.SIGKILL)
    bench.until(engine, run, lambda view: view.jobs[0].attempts == 2)
    assert not psutil.pid_exists(rank) or psutil.Process(rank).status() == psutil.STATUS_ZOMBIE
    assert bench.attempts(run)[0].exit() is None
    bench.allow(run)
    bench.until(engine, run, "succeeded")


def test_a_killed_rank_is_recorded(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"wait_for": "go"})
    bench.until(engine, run, "running")
    os.kill(bench.rank(run), signal.SIGKILL)
    bench.until(engine, run, lambda view: view.jobs[0].attempts == 2)
    record = bench.exit(run)
    assert (record["ending"], record["signal"]) == (Ending.DIED, signal.SIGKILL)
    bench.allow(run)
    bench.until(engine, run, "succeeded")
