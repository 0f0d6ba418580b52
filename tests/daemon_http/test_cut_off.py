"""Submissions that the end of the engine cuts off: each error names whether the run is queued."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from engine.runs.errors import MagicError
from engine.runs.run_folder import new_run_id
from magic_tui.client.engine import Engine, connect
from tests.daemon_http.conftest import Daemon
from tests.daemon_http.test_real_engine import CONFIG, NEVER

COUNT = 30


@pytest.mark.slow
def test_thirty_submissions_and_a_stop(
    new_daemon: Callable[[], Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = new_daemon()
    for name in ("MAGIC_STATE_DIR", "MAGIC_RUNTIME_DIR", "MAGIC_RUNS"):
        monkeypatch.setenv(name, daemon.environment[name])
    daemon.start(fake=False, MAGIC_DISK_FLOOR_GB=NEVER)
    outcomes: dict[str, dict[str, Any] | str] = {}
    together = threading.Barrier(COUNT + 1)

    def submit() -> None:
        engine, run = connect(), new_run_id()
        together.wait()
        try:
            outcomes[run] = engine.submit(run, CONFIG)
        except MagicError as error:
            outcomes[run] = str(error)

    threads = [threading.Thread(target=submit) for _ in range(COUNT)]
    for thread in threads:
        thread.start()
    together.wait()
    deadline = time.monotonic() + 20
    while not any(daemon.runs.glob("2*")) and time.monotonic() < deadline:
        time.sleep(0.001)
    connect_to = Engine(daemon.place, {"pid": daemon.pid})
    connect_to.stop()
    for thread in threads:
        thread.join()
    assert daemon.process is not None and daemon.process.wait(10) == 0
    assert len(outcomes) == COUNT
    queued = {run for run, answer in outcomes.items() if isinstance(answer, dict)}
    for run, answer in outcomes.items():
        assert (daemon.runs / run).exists() == (run in queued)
        if isinstance(answer, str):
            assert answer.startswith(f"run {run} was not queued")
        else:
            assert answer["id"] == run and answer["state"] in ("queued", "blocked")
    assert queued
    daemon.start(fake=False, MAGIC_DISK_FLOOR_GB=NEVER)
    # The next engine has them in its queue, in which nothing is but what was submitted.
    engine = connect()
    deadline = time.monotonic() + 20
    while int(Engine(engine.socket, engine.view).view["queued"]) < len(queued):
        assert time.monotonic() < deadline
        time.sleep(0.1)
        engine = connect()
    assert engine.view["queued"] == len(queued)
    assert {run["id"] for run in engine.runs()} == queued
    assert daemon.end() == 0
    log = daemon.log.read_text()
    assert "Traceback" not in log and "ERROR" not in log, log
