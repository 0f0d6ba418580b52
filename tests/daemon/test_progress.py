"""Progress folded from events."""

import math
from typing import Any

import pytest

from engine.daemon.progress import Progress
from engine.runs.api_schema import PhaseView


def fold(*events: tuple[str, dict[str, Any]]) -> Progress:
    progress = Progress()
    for kind, facts in events:
        progress.take({"event": kind, **facts})
    return progress


def phase_of(progress: Progress) -> PhaseView:
    view = progress.phase(moving=True)
    assert view is not None
    return view


def train(steps: int, total: int, **facts: Any) -> list[tuple[str, dict[str, Any]]]:
    begin = ("phase", {"phase": "train", "total": total})
    each = {"loss": 2.0, "seconds": 0.5, "memory": 7, **facts}
    return [begin, *(("train_step", {"step": step, **each}) for step in range(steps))]


def test_training() -> None:
    progress = fold(("started", {}), *train(10, 40))
    view = phase_of(progress)
    assert (view.phase, view.done, view.total, view.step) == ("train", 10, 40, 9)
    assert (view.loss, view.step_seconds) == (2.0, 0.5)
    assert view.remaining_seconds == pytest.approx(15.0)
    assert (progress.steps, progress.total_steps, progress.memory) == (10, 40, 7)
    assert progress.events == 12
    still = progress.phase(moving=False)
    assert still is not None and still.remaining_seconds is None and still.done == 10


def test_training_that_goes_on_where_it_was_saved() -> None:
    events = [*train(10, 40), ("started", {}), ("phase", {"phase": "train", "total": 40})]
    progress = fold(*events, ("resumed", {"phase": "train", "step": 8, "done": 8}))
    view = phase_of(progress)
    assert (view.done, view.step, progress.steps) == (8, 7, 8)


def test_the_pace_follows_a_change_of_pace() -> None:
    events = train(200, 1000)
    slow = [("train_step", {"step": s, "loss": 1.0, "seconds": 2.0}) for s in range(200, 400)]
    assert phase_of(fold(*events, *slow)).remaining_seconds == pytest.approx(600 * 2.0, rel=0.02)


def test_replay_counts_over_its_passes_and_the_states_it_rebuilds() -> None:
    events: list[tuple[str, dict[str, Any]]] = [("phase", {"phase": "replay", "total": 8})]
    for number in range(2):
        events.append(("pass", {"number": number, "passes": 2, "queries": [number]}))
        for step in (3, 2, 1, 0):
            events.append(("rebuild_step", {"step": step, "seconds": 1.0}))
            events.append(("replay_step", {"step": step, "seconds": 3.0, "memory": 9}))
    for count, done, step in ((4, 1, 3), (11, 4, 0), (12, 4, 0), (16, 6, 2)):
        view = phase_of(fold(*events[:count]))
        assert (view.done, view.step) == (done, step)
        assert view.remaining_seconds == pytest.approx((8 - done) * 4.0, rel=0.2)


def test_replay_that_goes_on_in_its_second_pass() -> None:
    view = phase_of(
        fold(
            ("phase", {"phase": "replay", "total": 8}),
            ("pass", {"number": 1, "passes": 2}),
            ("resumed", {"phase": "replay", "step": 3, "done": 5}),
        )
    )
    assert (view.done, view.step) == (5, 3)


def test_measuring() -> None:
    view = phase_of(fold(("phase", {"phase": "measure", "total": 3}), ("measured", {"query": 1})))
    assert (view.phase, view.done, view.total) == ("measure", 2, 3)


def test_no_phase_outlives_its_work() -> None:
    assert fold(*train(2, 2), ("finished", {"work": "run"})).phase(True) is None
    assert fold(*train(2, 2), ("started", {})).phase(True) is None
    assert phase_of(fold(*train(2, 4), ("failed", {"message": "x", "exit_code": 1}))).done == 2


@pytest.mark.parametrize("clock", [[3.0, 2.0, 1.0], [0.0, 1e12, -5.0], [math.nan] * 3])
def test_clocks_do_not_matter(clock: list[float]) -> None:
    events = train(3, 10)
    for (_, facts), time in zip(events[1:], clock, strict=True):
        facts["time"] = time
    assert phase_of(fold(*events)).remaining_seconds == pytest.approx(3.5)


@pytest.mark.parametrize(
    "facts",
    [
        {"loss": math.nan, "seconds": math.inf, "memory": None},
        {"loss": None, "seconds": None, "step": "x"},
        {"seconds": -1.0},
        {"loss": [1], "seconds": {}},
    ],
)
def test_facts_that_make_no_sense_are_unknown(facts: dict[str, Any]) -> None:
    view = phase_of(fold(*train(1, 3), ("train_step", {"step": 1, **facts}), ("what", {"a": 1})))
    assert view.loss is None or math.isfinite(view.loss)
    assert view.remaining_seconds is not None and math.isfinite(view.remaining_seconds)


def test_an_unknown_phase_is_no_phase() -> None:
    assert fold(("phase", {"phase": "dream", "total": 3})).phase(True) is None


def test_retrainings_count_all_steps_since_the_last_one_told() -> None:
    begin = ("phase", {"phase": "retrain", "total": 100})
    resumed = ("resumed", {"phase": "retrain", "step": 20, "done": 20})
    step = ("retrain_step", {"step": 3, "done": 24, "loss": 2.0, "seconds": 2.0})
    view = phase_of(fold(begin, resumed, step))
    assert (view.phase, view.done, view.step, view.loss) == ("retrain", 24, 3, 2.0)
    assert view.step_seconds == 0.5 and view.remaining_seconds == pytest.approx(76 * 0.5)
    view = phase_of(fold(begin, resumed, step, ("retrained", {"done": 30, "seconds": 9.0})))
    assert (view.done, view.step) == (30, None)
    assert view.remaining_seconds == pytest.approx(70 * 11.0 / 10)
