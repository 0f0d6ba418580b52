"""A task file that came with a received run: no route, poll or restart executes it."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.runs.checksummed import read_record, write_record
from engine.runs.config import RunConfig
from engine.runs.submission import submit_run
from tests.daemon_http.conftest import RUN, Daemon, needs_root, within

STRANGER = 12345
CANARY = "import pathlib; pathlib.Path({path!r}).touch(); raise RuntimeError('sung')\n"


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """Appears when the task of the run in ``received`` is loaded."""
    sung = tmp_path / "sung"
    task = tmp_path / "task.py"
    task.write_text(CANARY.format(path=str(sung)))
    config = {"name": "x", "model": {"path": "m"}, "data": {"path": "d"}, "task": f"{task}:Task"}
    submit_run(tmp_path / "received", RUN, RunConfig.model_validate(config))
    return sung


def ask_everything(daemon: Daemon, runs: Path) -> None:
    """Every route that only reads, as the OpenAPI document lists them."""
    with daemon.client() as client:
        document: dict[str, Any] = client.get("/v1/openapi.json").json()
        for path, methods in document["paths"].items():
            if "get" in methods:
                query = {"runs_dir": str(runs), "timeout": "0.1"}
                with client.stream("GET", path.format(run_id=RUN), params=query) as answer:
                    assert answer.status_code in (200, 422), path
                    if path != "/v1/engine/events":
                        answer.read()


def attempts(runs: Path) -> list[Path]:
    return list(runs.glob("*/jobs/*/attempts/*"))


@pytest.mark.parametrize("owner", [0, pytest.param(STRANGER, marks=needs_root)])
def test_a_received_run_executes_nothing_until_it_is_resumed(
    new_daemon: Callable[[], Daemon], canary: Path, owner: int
) -> None:
    daemon = new_daemon()
    received = canary.parent / "received"
    # In the usual runs folder as well as in another one.
    shutil.copytree(received, daemon.runs)
    desired = daemon.runs / RUN / "jobs/0001/desired_state.json"
    write_record(desired, {**(read_record(desired) or {}), "home": str(daemon.runs / RUN)})
    folders = (daemon.runs, received)
    for folder in folders if owner else ():
        for path in (folder, *folder.rglob("*")):
            os.chown(path, owner, owner)
    for _ in range(2):
        daemon.start(fake=False, MAGIC_DISK_FLOOR_GB="0")
        for folder in (*folders, *folders):
            ask_everything(daemon, folder)
        # Longer than the scheduler waits between two looks at what waits.
        time.sleep(1.2)
        assert not any(map(attempts, folders)) and not canary.exists()
        with daemon.client() as client:
            (run,) = client.get("/v1/runs", params={"runs_dir": str(daemon.runs)}).json()["runs"]
            assert run["state"] == "blocked" and "magic resume" in run["reason"]
        with daemon.client() as client:
            for folder in folders if owner else ():
                query = {"runs_dir": str(folder)}
                answer = client.post(f"/v1/runs/{RUN}/resume", params=query)
                assert answer.status_code == 409 and "belongs to user" in answer.text
        assert daemon.end() == 0
    if owner:
        return
    daemon.start(fake=False, MAGIC_DISK_FLOOR_GB="0")
    with daemon.client() as client:
        query = {"runs_dir": str(received)}
        task, code = canary.parent / "task.py", f"/v1/runs/{RUN}/code"
        for content in (task.read_text(), f"{task.read_text()}# changed\n"):
            task.write_text(content)
            # Accepted in its present content only.
            assert client.get(code, params=query).json()["accepted"] is False
            answer = client.post(f"/v1/runs/{RUN}/resume", params=query)
            assert answer.status_code == 409 and f"task.py:Task from {task.parent}" in answer.text
            assert client.post(code, params=query).json()["accepted"] is True
        assert client.post(f"/v1/runs/{RUN}/resume", params=query).status_code == 202
    assert within(60, canary.exists) and len(attempts(received)) == 1
    assert not attempts(daemon.runs)
    assert daemon.end() == 0
