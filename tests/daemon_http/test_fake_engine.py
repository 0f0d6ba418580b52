"""The stand-ins for the engine answer as the real one does: same statuses, keys and types."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.runs.states import RunState
from magic_tui.client.http import Request, send
from tests.daemon_http.conftest import RUN, Daemon
from tests.fake_engine import FakeEngine

CONFIG: dict[str, Any] = {"name": "mine", "model": {"path": "m"}, "data": {"path": "d.jsonl"}}
MISSING = "20260131T120000-ffffff"
STATES = {"pause": RunState.PAUSED, "resume": RunState.QUEUED, "cancel": RunState.CANCELLED}
ONE = f"/v1/runs/{RUN}"
QUERIES = {"request": {"texts": ["why"]}}
Answer = tuple[str, int, Any]


def requests(runs: str) -> Iterator[Request]:
    """One life of a run that never starts: submitted, read, steered and removed."""
    folder = {"runs_dir": runs}
    submission = {"id": RUN, "runs_dir": runs, "config": CONFIG}
    yield Request("GET", "/v1/engine")
    yield Request("GET", "/v1/runs", folder)
    yield Request("GET", "/v1/runs/find", folder)
    yield Request("POST", "/v1/runs", body={**submission, "id": "no-id"})
    yield Request("POST", "/v1/runs", body=submission)
    yield Request("POST", "/v1/runs", body=submission)
    yield Request("POST", "/v1/runs", body={**submission, "config": {**CONFIG, "name": "other"}})
    yield Request("GET", "/v1/runs", folder)
    yield Request("GET", "/v1/runs/find", {**folder, "selector": RUN[:20]})
    yield Request("GET", ONE, folder)
    yield Request("GET", f"/v1/runs/{MISSING}", folder)
    yield Request("GET", f"{ONE}/code", folder)
    yield Request("POST", f"{ONE}/code", folder)
    yield Request("GET", f"{ONE}/wait", {**folder, "timeout": "0.1"})
    yield Request("GET", f"{ONE}/wait", {**folder, "timeout": "0.1", "job": "9"})
    yield Request("DELETE", ONE, folder)
    yield Request("POST", f"{ONE}/attributions", folder, {"request": {"texts": 1}})
    yield Request("POST", f"{ONE}/attributions", folder, QUERIES)
    yield Request("POST", f"/v1/runs/{MISSING}/attributions", folder, QUERIES)
    for action in ("pause", "resume", "cancel", "cancel"):
        yield Request("POST", f"{ONE}/{action}", folder)
    yield Request("POST", f"/v1/runs/{MISSING}/cancel", folder)
    yield Request("GET", f"{ONE}/logs", folder)
    yield Request("GET", f"{ONE}/events", folder)
    yield Request("POST", "/v1/folders/allow", folder)
    yield Request("POST", "/v1/folders/forget", folder)
    yield Request("DELETE", ONE, folder)


def answers(socket: Path, runs: Path) -> list[Answer]:
    sent = [(each, send(socket, each)) for each in requests(str(runs))]
    return [(f"{each.method} {each.path}", got.status, got.json()) for each, got in sent]


def is_alike(one: Any, other: Any) -> bool:
    """Whether two JSON values have the same keys and types; null is alike to every type."""
    if one is None or other is None:
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return all(is_alike(a, b) for a in one[:1] for b in other[:1])
    kinds = (bool, int | float, str)
    return any(isinstance(one, kind) and isinstance(other, kind) for kind in kinds)


def compare(real: list[Answer], fake: list[Answer]) -> None:
    assert len(real) == len(fake)
    for (request, status, body), (_, fake_status, fake_body) in zip(real, fake, strict=True):
        assert (fake_status, request) == (status, request), fake_body
        assert is_alike(body, fake_body), (request, body, fake_body)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Answer]]:
    # A socket's path has to be short.
    daemon = Daemon(tmp_path_factory.mktemp("r")).start(
        fake=False, MAGIC_DISK_FLOOR_GB="1000000000"
    )
    daemon.runs.mkdir()
    yield answers(daemon.place, daemon.runs)
    assert daemon.end() == 0, daemon.log.read_text()


def test_the_fake_engine_of_the_clients(
    real: list[Answer], monkeypatch: pytest.MonkeyPatch, new_daemon: Callable[[], Daemon]
) -> None:
    folder = new_daemon().folder
    monkeypatch.setenv("MAGIC_STATE_DIR", f"{folder}/state")
    fake = FakeEngine(folder / "socket")
    fake.on_submit = lambda submission: fake.runs[submission.id].update(attributions=0)

    def set_state(view: dict[str, Any], action: str) -> None:
        jobs = [{**job, "state": STATES[action]} for job in view["jobs"]]
        fake.runs[view["id"]] = {**view, "state": STATES[action], "jobs": jobs, "job": jobs[-1]}

    fake.on_action = set_state
    fake.start()
    try:
        compare(real, answers(folder / "socket", folder / "runs"))
    finally:
        fake.stop()


def test_the_stub_below_the_server(real: list[Answer], new_daemon: Callable[[], Daemon]) -> None:
    daemon = new_daemon().start()
    compare(real, answers(daemon.place, daemon.runs))


def test_a_difference_is_found() -> None:
    assert is_alike({"a": 1, "b": [{"c": None}]}, {"a": 2.5, "b": [{"c": "x"}]})
    for other in ({"a": 1}, {"a": "1", "b": []}, {"a": True, "b": [{"d": 1}]}):
        assert not is_alike({"a": 1, "b": [{"c": 1}]}, other), other
    with pytest.raises(AssertionError):
        compare([("GET /", 201, {})], [("GET /", 200, {})])
