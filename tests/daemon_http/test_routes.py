"""Every route: its parameters and its responses."""

import json
import threading
import time
from typing import Any

import httpx2
import pytest

from engine.runs.api_schema import EngineView, Problem, Removed, RunView
from engine.runs.states import RunState
from tests.daemon_http.conftest import RUN, Daemon, within
from tests.fake_engine import VIEW, a_view, put

CONFIG: dict[str, Any] = {"name": "mine", "model": {"path": "m"}, "data": {"path": "d.jsonl"}}


def problem(answer: httpx2.Response, status: int) -> str:
    """The message of an error, after checking its form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    message = Problem.model_validate_json(answer.content)
    assert message.exit_code in (1, 2, 3)
    assert message.message and "\n" not in message.message and "Traceback" not in message.message
    return message.message


def test_the_engine_says_who_it_is(client: httpx2.Client, daemon: Daemon) -> None:
    view = EngineView.model_validate_json(client.get("/v1/engine").raise_for_status().content)
    assert (view.pid, view.socket) == (daemon.pid, str(daemon.place))


def test_runs_are_listed_oldest_first(client: httpx2.Client, daemon: Daemon) -> None:
    params = {"runs_dir": str(daemon.runs)}
    assert client.get("/v1/runs", params=params).json() == {"runs": []}
    for second in (3, 1, 2):
        daemon.make_run(RunState.QUEUED, run_id=f"2026013{second}T000000-000000")
    runs = client.get("/v1/runs", params=params).raise_for_status().json()["runs"]
    assert [run["id"][7] for run in runs] == ["1", "2", "3"]


def test_a_run_is_submitted_once(client: httpx2.Client, daemon: Daemon) -> None:
    wanted = {"id": RUN, "runs_dir": str(daemon.runs), "config": CONFIG}
    first = client.post("/v1/runs", json=wanted)
    assert first.status_code == 201
    assert RunView.model_validate_json(first.content).name == "mine"
    again = client.post("/v1/runs", json=wanted)
    assert (again.status_code, again.json()) == (200, first.json())
    other = client.post("/v1/runs", json={**wanted, "config": {**CONFIG, "name": "other"}})
    assert "another config" in problem(other, 409)


def test_a_run_is_found(client: httpx2.Client, daemon: Daemon) -> None:
    daemon.make_run(RunState.QUEUED)
    daemon.make_run(RunState.QUEUED, run_id="20260201T000000-000000")
    params = {"runs_dir": str(daemon.runs)}
    latest = client.get("/v1/runs/find", params=params)
    assert latest.json()["id"] == "20260201T000000-000000"
    match = client.get("/v1/runs/find", params={**params, "selector": "202601"})
    assert match.json()["id"] == RUN
    several = client.get("/v1/runs/find", params={**params, "selector": "2026"})
    assert "matches 2 runs" in problem(several, 409)
    none = client.get("/v1/runs/find", params={**params, "selector": "nothing"})
    assert "'nothing'" in problem(none, 404)
    invalid = client.get("/v1/runs/find", params={**params, "selector": "invalid"})
    assert problem(invalid, 422) == "that is no name"


def test_one_run(client: httpx2.Client, daemon: Daemon) -> None:
    folder = daemon.make_run(RunState.RUNNING)
    params = {"runs_dir": str(daemon.runs)}
    assert client.get(f"/v1/runs/{RUN}", params=params).json()["path"] == str(folder)
    missing = client.get("/v1/runs/20260131T120000-ffffff", params=params)
    assert "there is no run" in problem(missing, 404)


@pytest.mark.parametrize(
    ("verb", "state"), [("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")]
)
def test_actions(client: httpx2.Client, daemon: Daemon, verb: str, state: str) -> None:
    daemon.make_run(RunState.RUNNING)
    params = {"runs_dir": str(daemon.runs)}
    answer = client.post(f"/v1/runs/{RUN}/{verb}", params=params)
    assert (answer.status_code, answer.json()["state"]) == (202, state)
    daemon.make_run(RunState.SUCCEEDED)
    assert "nothing to" in problem(client.post(f"/v1/runs/{RUN}/{verb}", params=params), 409)


def test_attributions(client: httpx2.Client, daemon: Daemon) -> None:
    daemon.make_run(RunState.SUCCEEDED)
    params = {"runs_dir": str(daemon.runs)}
    answer = client.post(
        f"/v1/runs/{RUN}/attributions", params=params, json={"request": {"texts": ["why"]}}
    )
    assert (answer.status_code, answer.json()["jobs"][-1]["number"]) == (201, 2)
    both = client.post(f"/v1/runs/{RUN}/attributions", params=params, json={"request": {}})
    assert "give either texts or queries" in problem(both, 422)


def test_validations(client: httpx2.Client, daemon: Daemon) -> None:
    daemon.make_run(RunState.SUCCEEDED)
    params = {"runs_dir": str(daemon.runs)}
    answer = client.post(f"/v1/runs/{RUN}/validations", params=params, json={})
    assert (answer.status_code, answer.json()["jobs"][-1]["number"]) == (201, 2)
    body = {"request": {"drop": [0.1, 1.5]}}
    wrong = client.post(f"/v1/runs/{RUN}/validations", params=params, json=body)
    assert "drop" in problem(wrong, 422)


def test_removal(client: httpx2.Client, daemon: Daemon) -> None:
    daemon.make_run(RunState.RUNNING)
    params = {"runs_dir": str(daemon.runs)}
    assert "cancel it first" in problem(client.delete(f"/v1/runs/{RUN}", params=params), 409)
    daemon.make_run(RunState.CANCELLED)
    answer = client.delete(f"/v1/runs/{RUN}", params={**params, "what": "trajectory"})
    assert Removed.model_validate_json(answer.content).removed == "trajectory"
    assert client.delete(f"/v1/runs/{RUN}", params=params).json()["removed"] == "run"
    problem(client.get(f"/v1/runs/{RUN}", params=params), 404)
    answer = client.delete(f"/v1/runs/{RUN}", params={**params, "what": "everything"})
    assert "what should be 'run' or 'trajectory'" in problem(answer, 422)


def test_waiting_ends_when_all_jobs_are_settled(client: httpx2.Client, daemon: Daemon) -> None:
    folder = daemon.make_run(RunState.SUCCEEDED, RunState.RUNNING)
    params = {"runs_dir": str(daemon.runs), "timeout": 10}
    later = threading.Timer(0.5, put, (a_view(folder, RunState.SUCCEEDED, RunState.FAILED),))
    later.start()
    begin = time.monotonic()
    answer = client.get(f"/v1/runs/{RUN}/wait", params=params)
    assert answer.json()["state"] == "failed"
    assert 0.4 < time.monotonic() - begin < 3
    later.join()


def test_waiting_for_one_job_and_until_the_time_is_up(
    client: httpx2.Client, daemon: Daemon
) -> None:
    daemon.make_run(RunState.PAUSED, RunState.INTERRUPTED)
    params = {"runs_dir": str(daemon.runs), "timeout": 0.6}
    begin = time.monotonic()
    assert client.get(f"/v1/runs/{RUN}/wait", params={**params, "job": 1}).status_code == 200
    assert time.monotonic() - begin < 0.4
    answer = client.get(f"/v1/runs/{RUN}/wait", params={**params, "job": 2})
    assert answer.json()["state"] == "interrupted"
    assert time.monotonic() - begin > 0.6
    answer = client.get(f"/v1/runs/{RUN}/wait", params={**params, "job": 3})
    assert "has no job 3" in problem(answer, 404)
    answer = client.get(f"/v1/runs/{RUN}/wait", params={**params, "timeout": 1e9})
    assert "timeout should be less than or equal to 60" in problem(answer, 422)


def test_many_may_wait_at_once(daemon: Daemon) -> None:
    """More than there are threads to answer with."""
    folder, answered = daemon.make_run(RunState.RUNNING), []

    def wait() -> None:
        with daemon.client() as client:
            params = {"runs_dir": str(daemon.runs), "timeout": 20}
            answered.append(client.get(f"/v1/runs/{RUN}/wait", params=params).json()["state"])

    threads = [threading.Thread(target=wait) for _ in range(60)]
    for thread in threads:
        thread.start()
    with daemon.client() as client:
        begin = time.monotonic()
        client.get("/v1/runs", params={"runs_dir": str(daemon.runs)}).raise_for_status()
        assert time.monotonic() - begin < 5
    put(a_view(folder, RunState.SUCCEEDED))
    for thread in threads:
        thread.join()
    assert answered == ["succeeded"] * 60


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("GET", "/v1/runs", "runs_dir is missing; add it"),
        ("GET", "/v1/runs?runs_dir=here", "runs_dir should be an absolute path, got 'here'"),
        ("GET", "/v1/runs?runs_dir=/a%00b", "runs_dir should be an absolute path"),
        ("GET", "/v1/runs/x?runs_dir=/a", "run_id should be a run id such as 2026"),
        ("GET", "/v1/runs/..a?runs_dir=/a", "run_id should be a run id"),
        ("POST", "/v1/runs", "the body should be a JSON object"),
    ],
)
def test_errors_are_one_sentence(
    client: httpx2.Client, method: str, path: str, message: str
) -> None:
    assert message in problem(client.request(method, path), 422)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "x"}, "id should be a run id such as"),
        ({"idd": 1}, "idd is not a known key; remove it"),
        ({"config": {"model": {"path": "m"}}}, "config.data is missing; add it"),
        ({"config": {**CONFIG, "seed": -1}}, "config.seed should be greater than or equal to 0"),
        ({"environment": {"a=b": "c"}}, "environment.a=b"),
        ({"environment": {"A": "\0"}}, "environment.A"),
        ({"runs_dir": "/x\ud800"}, "runs_dir"),
        ({"config": {**CONFIG, "name": "\ud800"}}, "config.name"),
        ({"config": {**CONFIG, "name": "x" * 10_000}}, "config.name"),
    ],
)
def test_what_is_wrong_in_a_submission(
    client: httpx2.Client, change: dict[str, Any], message: str
) -> None:
    wanted = {"id": RUN, "runs_dir": "/nowhere", "config": CONFIG, **change}
    headers = {"Content-Type": "application/json"}
    answer = client.post("/v1/runs", content=json.dumps(wanted), headers=headers)
    assert message in problem(answer, 422)
    assert len(answer.text) < 400


def test_paths_that_cannot_be_used_are_the_askers_fault(
    client: httpx2.Client, daemon: Daemon
) -> None:
    answer = client.get(f"/v1/runs/{RUN}", params={"runs_dir": "/" + "x" * 300})
    assert "File name too long" in problem(answer, 422)


def test_nothing_there_and_wrong_methods(client: httpx2.Client) -> None:
    for path in ("/", "/v1", "/v1/runs/", "/docs", "/redoc", "/v1/runs/a/b/c"):
        assert f"there is nothing at {path}" in problem(client.get(path), 404)
    answer = client.patch("/v1/runs")
    assert "PATCH is not possible" in problem(answer, 405)
    assert answer.headers["allow"] == "GET, POST"
    assert client.put(f"/v1/runs/{RUN}").headers["allow"] == "GET, DELETE"


def test_error_responses_contain_no_internals(client: httpx2.Client, daemon: Daemon) -> None:
    folder = daemon.make_run(RunState.RUNNING)
    params = {"runs_dir": str(daemon.runs)}
    (folder / VIEW).write_text("broken")
    answer = client.get(f"/v1/runs/{RUN}", params=params)
    assert problem(answer, 500) == "the journal is damaged"
    (folder / VIEW).write_text("unforeseen")
    answer = client.get(f"/v1/runs/{RUN}", params=params)
    assert problem(answer, 500) == "the engine failed at this request; see its log"
    # It is written once the answer is sent.
    assert within(5, lambda: "ZeroDivisionError: a secret of the inside" in daemon.log.read_text())
    assert 'raise ZeroDivisionError("a secret' in daemon.log.read_text()


def test_it_describes_itself(client: httpx2.Client) -> None:
    described = client.get("/v1/openapi.json").raise_for_status().json()
    routes = {
        f"{method.upper()} {path}"
        for path, methods in described["paths"].items()
        for method in methods
    }
    assert routes == {
        "GET /v1/engine", "POST /v1/engine/stop", "GET /v1/engine/events", "GET /v1/runs",
        "POST /v1/runs", "GET /v1/runs/find", "GET /v1/runs/{run_id}", "DELETE /v1/runs/{run_id}",
        "GET /v1/runs/{run_id}/wait", "POST /v1/runs/{run_id}/pause",
        "POST /v1/runs/{run_id}/resume", "POST /v1/runs/{run_id}/cancel",
        "POST /v1/runs/{run_id}/attributions", "POST /v1/runs/{run_id}/validations",
        "POST /v1/folders/allow", "POST /v1/folders/forget",
        "GET /v1/runs/{run_id}/code", "POST /v1/runs/{run_id}/code",
        "GET /v1/runs/{run_id}/events", "GET /v1/runs/{run_id}/logs",
    }  # fmt: skip
    for methods in described["paths"].values():
        for operation in methods.values():
            problems = [s for s in operation["responses"] if s[0] in "45"]
            assert {"404", "422", "500"} <= set(problems)
            for status in problems:
                schema = operation["responses"][status]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}
