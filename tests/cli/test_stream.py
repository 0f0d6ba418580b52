"""A stream of events: every record once and in order, through stops and restarts of the engine."""

import threading
import time
from pathlib import Path

import pytest

from magic_tui.client import engine as client
from magic_tui.client import engine_process, stream
from magic_tui.client.engine import RefusedError, connect
from magic_tui.client.stream import Message, follow_events
from tests.fake_engine import FakeEngine

RUN = "20250102T030405-abc123"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_PAUSE_SECONDS", 0.05)


def fill(engine: FakeEngine, count: int, state: str = "succeeded") -> None:
    engine.add(RUN, state)
    for step in range(count):
        engine.say(RUN, "train_step", step=step)


def stream_messages(after: int = -1) -> list[Message]:
    connected = connect()
    return list(follow_events(connected, connected.run(RUN), after))


def numbers(messages: list[Message]) -> list[int]:
    return [message.data["seq"] for message in messages if message.kind == "record"]


def test_all_records_then_the_end(engine: FakeEngine) -> None:
    fill(engine, 5)
    messages = stream_messages()
    assert [message.kind for message in messages] == ["state", *["record"] * 5, "end"]
    assert messages[-1].data["state"] == "succeeded"
    assert numbers(stream_messages(after=2)) == [3, 4]


def test_an_interrupted_stream_continues_without_gaps_or_repeats(
    engine: FakeEngine,
) -> None:
    fill(engine, 20)
    engine.break_off = [3, 1, 7]
    assert numbers(stream_messages()) == list(range(20))
    streams = [request for request in engine.requests if request[1].endswith("/events")]
    assert len(streams) == 4


def test_an_engine_that_was_killed_is_replaced(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(engine, 5, "running")
    real, started = engine_process.reach_or_start, []

    def start_again() -> object:
        if engine_process.reach() is None:
            started.append(engine.start())
        return real()

    monkeypatch.setattr(client, "reach_or_start", start_again)
    seen: list[Message] = []
    for message in follow_events(connect(), engine.runs[RUN]):
        seen.append(message)
        if len(numbers(seen)) == 5 and not started:
            engine.stop()
            engine.say(RUN, "finished")
            engine.turn(RUN, "succeeded")
    assert numbers(seen) == list(range(6)) and len(started) == 1


def test_an_engine_that_was_stopped_on_purpose_is_waited_for(engine: FakeEngine) -> None:
    fill(engine, 3, "running")
    seen: list[Message] = []

    def follow() -> None:
        seen.extend(follow_events(connect(), engine.runs[RUN]))

    reader = threading.Thread(target=follow)
    reader.start()
    while not any(request[1].endswith("/events") for request in engine.requests):
        time.sleep(0.01)
    engine_process.stopped_note().touch()
    engine.stop()
    time.sleep(0.3)
    assert reader.is_alive()
    engine.say(RUN, "finished")
    engine.turn(RUN, "succeeded")
    engine.start()
    reader.join(10)
    assert numbers(seen) == [0, 1, 2, 3]
    assert [message.kind for message in seen].count("waiting") == 1


def test_a_journal_that_lost_its_end_is_sent_again(engine: FakeEngine) -> None:
    fill(engine, 6)
    engine.break_off, engine.reset_at = [5], 4
    messages = stream_messages()
    assert numbers(messages) == [*range(5), *range(6)]
    assert [m.kind for m in messages if m.kind in ("reset", "end")] == ["reset", "end"]


def test_a_run_that_is_not_there(engine: FakeEngine) -> None:
    with pytest.raises(RefusedError, match="no such run"):
        list(follow_events(connect(), {"id": RUN}))


def test_an_engine_that_always_breaks_off_is_given_up(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, places: Path
) -> None:
    fill(engine, 5)
    monkeypatch.setattr(stream, "_PAUSE_SECONDS", 0.0)

    def broken(*_: object) -> object:
        raise stream.DisconnectedError("broken")

    monkeypatch.setattr(stream, "_connected", broken)
    with pytest.raises(stream.UnreachableError, match="closed 10 streams without an event"):
        list(follow_events(connect(), engine.runs[RUN]))
