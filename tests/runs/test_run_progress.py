"""The fold of a run's events: phase, pace, time left, and what earlier attempts did."""

import math
from pathlib import Path
from typing import Any

import pytest

from engine.runs.events import Phase
from engine.runs.journal import JournalWriter
from engine.runs.run_progress import JournalFold, PhaseProgress, RunProgress

START = ("started", {"pid": 1})
MEASURED = {"query": 1, "loss_before": 3.0, "loss_after": 2.0}


def fold(*events: tuple[str, dict[str, Any]]) -> RunProgress:
    progress = RunProgress()
    for kind, fields in events:
        progress.add({"event": kind, **fields})
    return progress


def phase_of(progress: RunProgress) -> PhaseProgress:
    assert progress.phase is not None
    return progress.phase


def train(steps: int, total: int, **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    begin = ("phase", {"phase": "train", "total": total})
    each = {"loss": 2.0, "seconds": 0.5, "memory": 7, **fields}
    return [begin, *(("train_step", {"step": step, **each}) for step in range(steps))]


def test_training() -> None:
    progress = fold(START, *train(10, 40))
    view = phase_of(progress)
    assert (view.phase, view.done, view.total, view.step) == (Phase.TRAIN, 10, 40, 9)
    assert (view.loss, view.step_seconds) == (2.0, 0.5)
    assert view.remaining_seconds == pytest.approx(15.0)
    assert (progress.steps, progress.total_steps, progress.memory) == (10, 40, 7)
    assert progress.events == 12
    still = view.view(moving=False)
    assert still["remaining_seconds"] is None and still["done"] == 10


def test_resumed_training() -> None:
    events = [*train(10, 40), START, ("phase", {"phase": "train", "total": 40})]
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
            moved = {"step": step, "cotangent_norms": [1.0], "seconds": 3.0, "memory": 9}
            events.append(("replay_step", moved))
    for count, done, step in ((4, 1, 3), (11, 4, 0), (12, 4, 0), (16, 6, 2)):
        view = phase_of(fold(*events[:count]))
        assert (view.done, view.step) == (done, step)
        assert view.remaining_seconds == pytest.approx((8 - done) * 4.0, rel=0.2)


def test_replay_resumed_in_its_second_pass() -> None:
    view = phase_of(
        fold(
            ("phase", {"phase": "replay", "total": 8}),
            ("pass", {"number": 1, "passes": 2}),
            ("resumed", {"phase": "replay", "step": 3, "done": 5}),
        )
    )
    assert (view.done, view.step) == (5, 3)


def test_measuring() -> None:
    view = phase_of(fold(("phase", {"phase": "measure", "total": 3}), ("measured", MEASURED)))
    assert (view.phase, view.done, view.total) == (Phase.MEASURE, 2, 3)


def test_a_phase_ends_with_its_job() -> None:
    assert fold(*train(2, 2), ("finished", {"work": "run"})).phase is None
    assert fold(*train(2, 2), START).phase is None
    assert phase_of(fold(*train(2, 4), ("failed", {"message": "x", "exit_code": 1}))).done == 2


@pytest.mark.parametrize("clock", [[3.0, 2.0, 1.0], [0.0, 1e12, -5.0], [math.nan] * 3])
def test_clocks_do_not_matter(clock: list[float]) -> None:
    events = train(3, 10)
    for (_, fields), time in zip(events[1:], clock, strict=True):
        fields["time"] = time
    assert phase_of(fold(*events)).remaining_seconds == pytest.approx(3.5)


@pytest.mark.parametrize(
    "fields",
    [
        {"loss": math.nan, "seconds": math.inf, "memory": None},
        {"loss": None, "seconds": None, "step": "x"},
        {"loss": 1.0, "seconds": -1.0},
    ],
)
def test_figures_that_make_no_sense_are_unknown(fields: dict[str, Any]) -> None:
    view = phase_of(fold(*train(1, 3), ("train_step", {"step": 1, **fields}), ("what", {"a": 1})))
    assert view.loss is None or math.isfinite(view.loss)
    assert view.remaining_seconds is not None and math.isfinite(view.remaining_seconds)


def test_an_unknown_phase_is_no_phase() -> None:
    assert fold(("phase", {"phase": "dream", "total": 3})).phase is None


def test_retrainings_count_all_steps_since_the_last_report() -> None:
    begin = ("phase", {"phase": "retrain", "total": 100})
    resumed = ("resumed", {"phase": "retrain", "step": 20, "done": 20})
    step = ("retrain_step", {"step": 3, "done": 24, "loss": 2.0, "seconds": 2.0})
    view = phase_of(fold(begin, resumed, step))
    assert (view.phase, view.done, view.step, view.loss) == (Phase.RETRAIN, 24, 3, 2.0)
    assert view.step_seconds == 0.5 and view.remaining_seconds == pytest.approx(76 * 0.5)
    view = phase_of(fold(begin, resumed, step, ("retrained", {"done": 30, "seconds": 9.0})))
    assert (view.done, view.step) == (30, None)
    assert view.remaining_seconds == pytest.approx(70 * 11.0 / 10)


def test_a_resumed_phase_includes_the_earlier_attempt() -> None:
    events = [START, *train(3, 6), ("interrupted", {"saved": True}), START]
    again = ("phase", {"phase": "train", "total": 6})
    events += [again, ("resumed", {"phase": "train", "step": 3, "done": 3})]
    events += [("train_step", {"step": 3, "loss": 1.0, "seconds": 0.5})]
    progress = RunProgress()
    for time, (kind, fields) in enumerate(events):
        progress.add({"time": 10.0 * time, "event": kind, **fields})
    phase = phase_of(progress)
    assert (phase.first_loss, phase.loss, phase.done) == (2.0, 1.0, 4)
    # 40 s to the interruption, 20 s since the phase was begun again; not the time between.
    assert phase.elapsed == 40.0 + 20.0
    # After a success, a phase with the same name starts from zero.
    done = phase_of(fold(*train(3, 3), ("attributed", {"attribution": "a", "queries": 1}), again))
    assert done.first_loss is None and done.elapsed == 0.0


def test_a_journal_is_folded_as_it_grows_and_again_if_it_was_replaced(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    journal = JournalFold(file, RunProgress)
    assert journal.update().events == 0
    for total in (40, 3):
        file.unlink(missing_ok=True)
        writer = JournalWriter(file)
        for kind, fields in train(total // 2, total):
            writer.append(kind, **fields)
        writer.close()
        progress = journal.update()
        assert (progress.steps, progress.total_steps) == (total // 2, total)
    file.unlink()
    assert journal.update().events == 0
