"""The command line and the real engine together; only the ranks are a small script."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.runs.errors import ExitCode, MagicError
from magic_tui.client import engine_process
from magic_tui.client.engine import STOPPED, connect, connect_if_running
from magic_tui.client.stream import follow_events
from tests.cli.conftest import Magic
from tests.daemon.conftest import end_attempts

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "name: mine\nmodel: {path: m}\ndata: {path: d}\n"
WITH_QUERIES = CONFIG + "queries: {path: q}\n"


@pytest.fixture(autouse=True)
def _real_engine(
    places: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    command = [sys.executable, "-P", str(Path(__file__).with_name("quick_engine.py"))]
    monkeypatch.setattr(engine_process, "ENGINE_COMMAND", command)
    monkeypatch.setenv("MAGIC_DISK_FLOOR_GB", "0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "run.yaml").write_text(CONFIG)
    try:
        yield
        engine = connect_if_running()
        if engine is not None:
            for run in engine.runs():
                with contextlib.suppress(Exception):
                    engine.act(run["id"], "cancel")
                engine.wait(run["id"], 10)
            engine.stop()
    finally:
        # Ranks wait for their test, which may have failed before it released them.
        pid = engine_process.engine_pid()
        if pid is not None:
            os.kill(int(pid), signal.SIGKILL)
        end_attempts(runs)


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the ranks' behaviour, one entry per attempt."""

    def behave(*orders: dict[str, Any]) -> None:
        monkeypatch.setenv("HF_FAKE_RANK", json.dumps(orders))

    return behave


def submitted(magic: Magic, runs: Path) -> tuple[str, Path]:
    """The id and folder of a run that was submitted just now."""
    run_id = magic("run", "run.yaml", "--detach").stdout.strip()
    return run_id, runs / run_id


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def state(magic: Magic, run_id: str) -> str:
    return str(json.loads(magic("status", run_id, "--json").stdout)["state"])


def test_a_run_is_paused_resumed_and_done(magic: Magic, runs: Path, ranks: Any) -> None:
    ranks({"steps": 5, "wait_for": "go"})
    run_id, folder = submitted(magic, runs)
    until(lambda: state(magic, run_id) == "running")
    assert run_id in magic("status").stdout
    assert magic("pause").stdout == f"run {run_id} is paused\n"
    assert magic("wait", run_id).exit_code == 4
    result = magic("pause", run_id, "--json")
    assert json.loads(result.stdout).get("state", "paused") == "paused"
    assert magic("resume").exit_code == 0
    (folder / "go").touch()
    assert magic("wait", run_id, "--timeout", "20").exit_code == 0
    lines = [json.loads(line) for line in magic("watch", run_id, "--jsonl").stdout.splitlines()]
    assert [line["seq"] for line in lines] == list(range(len(lines)))
    assert [line["event"] for line in lines].count("started") == 2
    assert "rank" in magic("logs", run_id).stdout


def test_a_run_is_cancelled_and_removed(magic: Magic, runs: Path, ranks: Any) -> None:
    ranks({"wait_for": "never"})
    run_id, folder = submitted(magic, runs)
    result = magic("rm", run_id, "--yes")
    assert result.exit_code == 2 and folder.exists()
    assert magic("cancel", run_id).stdout == f"run {run_id} is cancelled\n"
    assert magic("wait", run_id).exit_code == 4
    facts = json.loads(magic("rm", run_id, "--yes", "--json").stdout)
    assert facts["freed_bytes"] > 0 and not folder.exists()
    assert json.loads(magic("ls", "--json").stdout)["runs"] == []


@pytest.mark.slow
def test_a_failure_has_the_exit_code_of_its_cause(magic: Magic, ranks: Any) -> None:
    ranks({"end": "fail"})
    result = magic("run", "run.yaml")
    assert result.exit_code == 2
    assert "magic: the loss is not finite; lower the rate\n" in result.stderr
    assert "stays listed as failed; its checkpoints are stored" in result.stderr
    assert magic("wait").exit_code == 2


def test_records_come_once_each_though_the_engine_is_killed(
    magic: Magic, runs: Path, ranks: Any
) -> None:
    ranks({"steps": 60, "seconds": 0.05})
    run_id, _ = submitted(magic, runs)
    engine = connect()
    kill_at, killed, seen = [10, 40], [], []
    for message in follow_events(engine, engine.run(run_id)):
        if message.kind == "record":
            seen.append(message.data["seq"])
        if kill_at and len(seen) >= kill_at[0] and engine.view["pid"] not in killed:
            kill_at.pop(0)
            killed.append(engine.view["pid"])
            os.kill(killed[-1], signal.SIGKILL)
    assert len(killed) == 2 and engine.view["pid"] not in killed
    assert seen == list(range(len(seen))) and len(seen) >= 62
    assert message.kind == "end" and message.data["state"] == "succeeded"
    assert [attempt.name for attempt in (runs / run_id / "jobs/0001/attempts").iterdir()] == [
        "0001"
    ]


# The library forgets a socket that it could not connect.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stopped_engine_stays_stopped_for_who_only_watches(
    magic: Magic, runs: Path, ranks: Any
) -> None:
    ranks({"wait_for": "go"})
    run_id, folder = submitted(magic, runs)
    until(lambda: state(magic, run_id) == "running")
    engine = connect()
    kinds: list[str] = []

    def watch() -> None:
        for message in follow_events(engine, engine.run(run_id)):
            kinds.append(message.kind)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        until(lambda: connect().view["running"] == 1 and "telemetry" in kinds)
        stopped = magic("engine", "stop").stdout
        time.sleep(1.0)
        alone = engine_process.engine_pid() is None and watcher.is_alive()
    finally:
        (folder / "go").touch()
        assert magic("ls").exit_code == 0
        watcher.join(20)
    assert alone and stopped == "engine stopped; 1 run continues\n"
    assert kinds.count("waiting") == 1 and kinds[-1] == "end"
    assert magic("wait", run_id).exit_code == 0


@pytest.mark.slow
def test_who_waits_starts_no_engine_that_was_stopped(magic: Magic, runs: Path, ranks: Any) -> None:
    ranks({"wait_for": "go"})
    run_id, _ = submitted(magic, runs)
    until(lambda: state(magic, run_id) == "running")
    engine = connect()
    errors: list[MagicError] = []

    def wait() -> None:
        try:
            engine.wait(run_id)
        except MagicError as error:
            errors.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.2)
    assert connect().stop()["running"] == 1
    waiter.join(10)
    assert engine_process.engine_pid() is None
    assert [(str(error), error.exit_code) for error in errors] == [(STOPPED, ExitCode.UNREACHABLE)]


@pytest.mark.slow
def test_ctrl_c_leaves_and_watch_comes_back(
    magic: Magic, runs: Path, ranks: Any, tmp_path: Path
) -> None:
    ranks({"wait_for": "go"})
    main = "from magic_tui.cli.main import main; main()"
    assert magic("engine", "start").exit_code == 0
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {main}",
         "run", str(tmp_path / "run.yaml")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stderr is not None
    while "training" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    (run,) = runs.iterdir()
    assert (
        process.returncode == 130
        and f"the run continues; follow it with: magic watch {run.name}" in errors
    )
    assert state(magic, run.name) == "running"
    (run / "go").touch()
    result = magic("watch")
    assert result.exit_code == 0 and f"run {run.name} succeeded" in result.stderr


def test_invalid_requests_to_a_run_are_refused(magic: Magic, ranks: Any) -> None:
    ranks({})
    assert magic("run", "run.yaml", "--detach").exit_code == 0
    assert magic("wait").exit_code == 0
    for verb in ("pause", "cancel", "resume"):
        result = magic(verb)
        assert result.exit_code == 2, verb
        assert result.stderr.startswith("magic: ") and "\n" not in result.stderr[:-1]
    assert magic("status", "nothing-like-it").exit_code == 2
