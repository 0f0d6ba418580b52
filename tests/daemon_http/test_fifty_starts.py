"""Fifty commands that find no engine at the same moment: one engine, and all are answered."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = 50
CLIENT = """
import json, os, sys
from magic_tui.client.engine import connect
print("ready", flush=True)
os.read(int(sys.argv[1]), 1)
engine = connect()
print(json.dumps([engine.view["pid"], engine.started, engine.runs()]))
"""


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="mg-") as folder:
        yield {
            **os.environ,
            "MAGIC_STATE_DIR": f"{folder}/state",
            "MAGIC_RUNTIME_DIR": f"{folder}/run",
            "MAGIC_RUNS": f"{folder}/runs",
            "PYTHONPATH": str(ROOT),
        }
        for pid in engines(Path(folder)):
            os.kill(pid, signal.SIGKILL)


def engines(folder: Path) -> list[int]:
    """Processes whose state folder is in ``folder`` and that are engines."""
    pids = []
    for process in Path("/proc").iterdir():
        try:
            command = (process / "cmdline").read_bytes()
            if (
                b"engine.daemon" in command
                and str(folder).encode() in (process / "environ").read_bytes()
            ):
                pids.append(int(process.name))
        except (OSError, ValueError):
            continue
    return pids


@pytest.mark.slow
def test_one_engine_answers_them_all(environment: dict[str, str]) -> None:
    gate, opener = os.pipe()
    clients = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", CLIENT, str(gate)],
            env=environment, pass_fds=[gate], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(CLIENTS)
    ]  # fmt: skip
    os.close(gate)
    for client in clients:
        assert client.stdout is not None and client.stdout.readline() == "ready\n"
    # The end of the pipe reaches all of them at once.
    os.close(opener)
    answers = [client.communicate(timeout=60) for client in clients]
    assert [client.returncode for client in clients] == [0] * CLIENTS, answers[0][1]
    outputs = [json.loads(output) for output, _ in answers]
    (pid,) = {pid for pid, _, _ in outputs}
    assert sum(started for _, started, _ in outputs) == 1
    assert engines(Path(environment["MAGIC_STATE_DIR"]).parent) == [pid]
    log = (Path(environment["MAGIC_STATE_DIR"]) / "engine.log").read_text()
    assert log.count(" serving at ") == 1 and "runs already" not in log
