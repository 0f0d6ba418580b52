"""The logs of a run as one text."""

import os

import httpx2

from engine.runs.states import RunState
from tests.daemon_http.conftest import RUN, Daemon
from tests.fake_engine import a_view, put


def test_logs_are_one_text(client: httpx2.Client, daemon: Daemon) -> None:
    folder = daemon.make_run(RunState.SUCCEEDED)
    logs = folder / "logs"
    params = {"runs_dir": str(daemon.runs)}
    assert client.get(f"/v1/runs/{RUN}/logs", params=params).text == ""
    logs.mkdir()
    (logs / "0001-0002.log").write_bytes(b"second \xff\n" * 20_000)
    (logs / "0001-0001.log").write_bytes(b"first\n")
    (logs / "0002-0001.log").symlink_to("/etc/passwd")
    os.mkfifo(logs / "0002-0002.log")
    (logs / "0002-0003.log").mkdir()
    (logs / "0003-0001.log").write_bytes(b"third\n")
    expected = b"first\n" + b"second \xff\n" * 20_000 + b"third\n"
    for follow in ("false", "true"):
        answer = client.get(f"/v1/runs/{RUN}/logs", params={**params, "follow": follow})
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.content == expected


def test_logs_are_followed_over_attempts(client: httpx2.Client, daemon: Daemon) -> None:
    folder = daemon.make_run(RunState.RUNNING)
    logs = folder / "logs"
    params = {"runs_dir": str(daemon.runs), "follow": "true"}
    with client.stream("GET", f"/v1/runs/{RUN}/logs", params=params) as answer:
        lines = answer.iter_lines()
        logs.mkdir()
        for attempt in (1, 2):
            with open(logs / f"0001-000{attempt}.log", "w") as log:
                for step in range(3):
                    print(attempt, step, file=log, flush=True)
                    assert next(lines) == f"{attempt} {step}"
        put(a_view(folder, RunState.FAILED))
        assert list(lines) == []


def test_a_job_that_resumes_after_a_later_one_is_followed(
    client: httpx2.Client, daemon: Daemon
) -> None:
    folder = daemon.make_run(RunState.RUNNING)
    logs = folder / "logs"
    logs.mkdir()
    params = {"runs_dir": str(daemon.runs), "follow": "true"}
    with client.stream("GET", f"/v1/runs/{RUN}/logs", params=params) as answer:
        lines = answer.iter_lines()
        for name in ("0002-0001", "0001-0002", "0002-0002", "0001-0003"):
            (logs / f"{name}.log").write_text(f"{name}\n")
            assert next(lines) == name
        put(a_view(folder, RunState.FAILED))
        assert list(lines) == []
