"""The schema of events: what writers may write, and what readers accept."""

from typing import Any

import pytest

from engine.runs import events
from engine.runs.events import SCHEMA, Event, check, parse

STEP: dict[str, Any] = {"step": 3, "loss": 2.5, "seconds": 0.1}


def test_every_kind_has_a_class() -> None:
    assert set(SCHEMA) == set(Event)
    assert len(set(SCHEMA.values())) == len(Event)


def test_what_a_writer_may_write_is_what_a_reader_reads() -> None:
    check(Event.TRAIN_STEP, STEP)
    event = parse({"seq": 7, "time": 1.0, "event": "train_step", **STEP, "later": [1]})
    assert event == events.TrainStepped(3, 2.5, 0.1)
    assert parse({"event": "reproduced", "exact": True}) == events.Reproduced(True, 0.0)


@pytest.mark.parametrize(
    ("kind", "fields", "problem"),
    [
        ("train_step", {**STEP, "rate": 1.0}, "no field is named rate"),
        ("train_step", {"step": 3, "loss": 2.5}, "seconds is missing"),
        ("train_step", {**STEP, "loss": "2.5"}, "loss is '2.5'"),
        ("train_step", {**STEP, "loss": None}, "loss is None"),
        ("pass", {"number": 0, "passes": 1, "queries": 3}, "queries is 3"),
        ("dream", {}, "'dream' is not a kind of event"),
    ],
)
def test_no_wrong_event_can_be_written(kind: str, fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        check(kind, fields)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"event": "dream", "a": 1},
        {"event": "train_step", "step": 3},
        {"event": "train_step", **STEP, "step": "x"},
        {"event": "replay_step", "step": 3, "seconds": 0.1, "cotangent_norms": "ab"},
    ],
)
def test_readers_ignore_what_is_not_in_the_schema(record: dict[str, Any]) -> None:
    assert parse(record) is None
