"""Snapshots of a run's history, and how the strip and the curves draw them."""

from typing import Any

import numpy as np
import pytest

from engine.runs.run_history import RunHistory
from magic_tui.dashboard.line_filters import as_ascii
from magic_tui.live.residency_strip import LABEL_WIDTH, strip_lines
from magic_tui.text.chart import curve_lines
from tests.cli.fake_run import replay_events, training_events

STEPS = 6


def history_of(*parts: list[tuple[str, dict[str, Any]]]) -> RunHistory:
    history = RunHistory()
    for number, (kind, facts) in enumerate(pair for part in parts for pair in part):
        history.add({"event": kind, "time": float(number), **facts})
    return history


def checkpoints(*steps: int) -> list[tuple[str, dict[str, Any]]]:
    return [("checkpoint", {"kind": "state", "step": step, "bytes": 1}) for step in steps]


def strip(history: RunHistory, seq: int | None = None, width: int = 40) -> list[str]:
    snapshot = history.at(seq)
    return [line.plain for line in strip_lines(snapshot, 0, snapshot.steps, width)]


def test_training_fills_the_strip_step_by_step() -> None:
    history = history_of(training_events(STEPS)[:-2], checkpoints(0, 3))
    snapshot = history.at()
    assert (snapshot.trained, snapshot.steps, snapshot.cursor) == (4, STEPS, None)
    train, store, replay = strip(history, width=LABEL_WIDTH + STEPS + 2 + 7)
    assert train == "TRAIN   ████░░  4/6"
    assert store == "STORE   D··D··· 2 D"
    assert replay.startswith("REPLAY  ······  –")


def test_replay_moves_the_cursor_and_shows_the_states_in_memory() -> None:
    replay = replay_events(STEPS)
    begun = history_of(training_events(STEPS), checkpoints(0, STEPS), replay[: -2 - 2 * 2 - 1])
    snapshot = begun.at()
    assert snapshot.cursor == 3 and snapshot.rebuilding == (2, 2)
    assert np.flatnonzero(snapshot.held).tolist() == [2]
    _, store, line = strip(begun, width=LABEL_WIDTH + STEPS + 2 + 7)
    assert store == "STORE   D·R···D 2 D 1 R"
    assert line == "REPLAY  ··▒◀▓▓  3/6"
    assert (snapshot.done, snapshot.total) == (3, STEPS)
    broken_off = history_of(training_events(STEPS), replay[: -2 - 2 * 2 - 1], [("interrupted", {})])
    assert broken_off.at().cursor == 3 and not broken_off.at().held.any()
    done = history_of(training_events(STEPS), checkpoints(0, STEPS), replay).at()
    assert done.cursor == 0 and done.rebuilding is None
    assert not done.held.any()


def test_any_snapshot_equals_the_fold_of_the_events_before_it() -> None:
    events = [*training_events(STEPS), *checkpoints(0), *replay_events(STEPS)]
    whole = history_of(events)
    for seq in range(len(events)):
        part = history_of(events[: seq + 1])
        then, now = whole.at(seq), part.at()
        assert (then.trained, then.cursor, then.phase) == (now.trained, now.cursor, now.phase)
        assert (then.disk == now.disk).all() and (then.held == now.held).all()
        assert then.step_seconds == now.step_seconds and then.memory == now.memory
        for name, (steps, values) in now.curves.items():
            assert np.array_equal(then.curves[name][0], steps)
            assert np.array_equal(then.curves[name][1], values)
        assert whole.messages_until(seq) == part.messages
    assert whole.at(0).steps == 0 and strip(whole, 0)[0].rstrip().endswith("0/0")


def test_earlier_attempts_count() -> None:
    resumed = ("resumed", {"phase": "train", "step": 3, "done": 3})
    phase = ("phase", {"phase": "train", "total": STEPS, "attribution": None})
    history = history_of(training_events(STEPS)[:-1], [phase, resumed])
    assert history.at().trained == 3
    replay = replay_events(STEPS)[:-6]
    again = ("resumed", {"phase": "replay", "step": 4, "done": 2})
    history = history_of(training_events(STEPS), replay[:3], replay[3:5], [again])
    assert history.at().cursor == 4 and history.at().done == 2


def test_a_cell_of_many_steps_counts_the_stored_states() -> None:
    history = history_of(training_events(1000)[:754], checkpoints(*range(0, 750, 25)))
    train, store, _ = strip(history, width=80)
    assert len(train) <= 80 and len(store) <= 80
    cells = store[LABEL_WIDTH:].split()[0]
    assert set(cells) == set("D·")
    room = len(train.split()[1])
    assert train.count("█") == pytest.approx(room * 750 / 1000, abs=1)
    packed = history_of(training_events(1000), checkpoints(*range(0, 1000, 3)))
    cells = strip(packed, width=80)[1][LABEL_WIDTH:].split()[0]
    assert set(cells[:-1]) <= set("567") and cells[-1] == "·"


def test_curves_fit_their_size_and_label_their_extremes() -> None:
    values = np.array([2.0, 4.0, np.nan, 8.0])
    lines = curve_lines("loss", (np.arange(4.0), values), (0, 4), (30, 6))
    assert len(lines) == 6 and all(line.cell_len <= 30 for line in lines)
    assert lines[0].plain == "loss 8" and lines[1].plain.startswith("8")
    assert lines[-1].plain.startswith("2")
    assert lines[1].plain.rstrip().endswith("█")
    assert set(as_ascii("".join(line.plain for line in lines))) <= set("los 248#-=_")
    empty = curve_lines("loss", (np.zeros(0), np.zeros(0)), (0, 4), (30, 6))
    assert len(empty) == 6 and "nothing yet" in empty[1].plain
    flat = curve_lines("loss", (np.arange(2.0), np.ones(2)), (0, 2), (20, 3))
    assert len(flat) == 3


def test_ascii_keeps_the_width() -> None:
    assert as_ascii("▓▒◀ D··R ✓ – 语") == "#%< D..R v - ??"


def test_the_strip_keeps_its_width_as_numbers_grow() -> None:
    whole = history_of(training_events(STEPS), checkpoints(0, STEPS), replay_events(STEPS))
    trains = [strip(whole, seq) for seq in range(3, whole.count)]
    assert len({len(lines[0][LABEL_WIDTH:].split()[0]) for lines in trains}) == 1
    assert max(len(line) for lines in trains for line in lines) <= 40


def test_a_number_in_a_title_is_whole_or_absent() -> None:
    curve = (np.arange(2.0), np.array([4.6e-5, 4.6e-5]))
    heads = {width: curve_lines("learning rate", curve, (0, 2), (width, 3))[0].plain
             for width in range(13, 24)}  # fmt: skip
    assert set(heads.values()) == {"learning rate", "learning rate 4.6e-5"}
