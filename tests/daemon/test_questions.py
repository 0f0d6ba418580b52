"""An attribution never changes the state of a run, which is that of its training."""

import shutil
from collections.abc import Callable

import pytest

from engine.daemon.engine import Engine
from engine.runs.api_schema import RunView
from engine.runs.errors import ConflictError
from tests.daemon.conftest import Bench


def ended(number: int) -> Callable[[RunView], bool]:
    return lambda view: len(view.jobs) >= number and view.jobs[number - 1].state.settled


def test_a_question_that_fails_leaves_the_run_as_it_was(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine)
    bench.until(engine, run, "succeeded")
    bench.ask(engine, run, {"end": "fail"})
    view = bench.until(engine, run, ended(2))
    assert (view.state, view.reason, view.phase) == ("succeeded", None, None)
    assert [job.state for job in view.jobs] == ["succeeded", "failed"]
    assert view.jobs[1].exit_code == 2 and "lower the rate" in (view.jobs[1].reason or "")
    # Neither a later attribution nor a restart changes it.
    bench.ask(engine, run, {"wait_for": "go"})
    assert bench.until(engine, run, "running").state == "succeeded"
    bench.act(engine, run, "pause")
    assert bench.until(engine, run, "paused").state == "succeeded"
    bench.act(engine, run, "resume")
    bench.until(engine, run, "running")
    bench.act(engine, run, "cancel")
    bench.until(engine, run, ended(3))
    bench.stop(engine)
    again = bench.start().run(bench.runs, run)
    assert [job.state for job in again.jobs] == ["succeeded", "failed", "cancelled"]
    assert (again.state, again.reason) == ("succeeded", None)


def test_the_configs_own_queries_do_not_mark_it_either(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"end": "fail at its queries"})
    view = bench.until(engine, run, ended(1))
    assert (view.state, view.reason) == ("succeeded", None)
    assert view.jobs[0].state == "failed" and view.jobs[0].reason
    # Nor later, when the trajectory was removed.
    engine.remove(bench.runs, run, "trajectory")
    assert engine.run(bench.runs, run).state == "succeeded"
    bench.stop(engine)
    assert bench.start().run(bench.runs, run).state == "succeeded"


@pytest.mark.parametrize("verb", ["cancel", None])
def test_a_training_that_ends_badly_marks_the_run(bench: Bench, verb: str | None) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"end": "fail"} if verb is None else {"wait_for": "go"})
    if verb is not None:
        bench.until(engine, run, "running")
        bench.act(engine, run, verb)
    view = bench.until(engine, run, ended(1))
    assert view.state == ("failed" if verb is None else "cancelled")
    assert view.reason == view.jobs[0].reason


def test_the_refusal_of_an_action_names_the_run(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine)
    bench.until(engine, run, "succeeded")
    bench.ask(engine, run, {"end": "fail"})
    bench.until(engine, run, ended(2))
    with pytest.raises(ConflictError, match="is succeeded: there is nothing to pause"):
        bench.act(engine, run, "pause")
    bench.act(engine, run, "resume")
    view = bench.until(engine, run, lambda view: view.jobs[1].attempts == 2)
    assert view.state == "succeeded"


def test_a_run_without_its_first_job_takes_its_state_from_the_trajectory(bench: Bench) -> None:
    engine: Engine = bench.start()
    run = bench.submit(engine)
    bench.until(engine, run, "succeeded")
    bench.ask(engine, run, {"end": "fail"})
    bench.until(engine, run, ended(2))
    bench.stop(engine)
    shutil.rmtree(bench.runs / run / "jobs" / "0001")
    assert bench.start().run(bench.runs, run).state == "succeeded"
