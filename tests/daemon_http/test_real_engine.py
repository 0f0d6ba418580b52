"""The interface over the real engine, as far as nothing has to be trained for it."""

from collections.abc import Callable
from typing import Any

import psutil

from engine.runs.api_schema import EngineView, RunView
from tests.daemon_http.conftest import RUN, Daemon

CONFIG: dict[str, Any] = {"name": "mine", "model": {"path": "m"}, "data": {"path": "d.jsonl"}}
NEVER = "1000000000"
"""Gigabytes that have to be free before anything starts."""


def test_a_run_from_its_submission_to_its_removal(new_daemon: Callable[[], Daemon]) -> None:
    daemon = new_daemon().start(fake=False, MAGIC_DISK_FLOOR_GB=NEVER)
    params = {"runs_dir": str(daemon.runs)}
    with daemon.client() as client:
        view = EngineView.model_validate_json(client.get("/v1/engine").content)
        assert (view.pid, view.socket, view.queued) == (daemon.pid, str(daemon.place), 0)
        assert client.get("/v1/runs", params=params).json() == {"runs": []}
        assert client.get("/v1/runs/find", params=params).status_code == 404
        daemon.runs.mkdir()
        wanted = {"id": RUN, **params, "config": CONFIG}
        assert [client.post("/v1/runs", json=wanted).status_code for _ in range(2)] == [201, 200]
        other = {**wanted, "config": {**CONFIG, "seed": 1}}
        assert client.post("/v1/runs", json=other).status_code == 409

    assert daemon.end() == 0, daemon.log.read_text()
    daemon.start(fake=False, MAGIC_DISK_FLOOR_GB=NEVER)
    with daemon.client() as client:
        run = RunView.model_validate_json(client.get("/v1/runs/find", params=params).content)
        assert (run.id, run.name, run.jobs[0].attempts) == (RUN, "mine", 0)
        assert run.state in ("queued", "blocked")
        waited = client.get(f"/v1/runs/{RUN}/wait", params={**params, "timeout": 0.1})
        assert waited.status_code == 200
        assert client.delete(f"/v1/runs/{RUN}", params=params).status_code == 409
        for verb, state in (("pause", "paused"), ("resume", None), ("cancel", "cancelled")):
            answer = client.post(f"/v1/runs/{RUN}/{verb}", params=params)
            assert answer.status_code == 202, answer.text
            assert state is None or answer.json()["state"] == state
        text = client.get(f"/v1/runs/{RUN}/events", params={**params, "follow": "true"}).text
        assert text.startswith("event: state\n") and "\nevent: end\n" in text
        assert client.get(f"/v1/runs/{RUN}/logs", params=params).text == ""
        assert psutil.Process(daemon.pid).net_connections(kind="inet") == []
        assert client.delete(f"/v1/runs/{RUN}", params=params).json()["removed"]
        assert client.get(f"/v1/runs/{RUN}", params=params).status_code == 404
    assert daemon.end() == 0
    assert "Traceback" not in daemon.log.read_text()
