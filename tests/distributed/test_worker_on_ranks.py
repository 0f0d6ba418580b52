"""The worker on several ranks: the scores of one rank, and no rank waits for a dead one."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil
import pytest
import yaml

from engine.runs.environment import child_environment
from engine.runs.journal import read_journal
from engine.runs.score_store import ScoreReader
from tests.crash.tiny import tiny_config, tiny_model

pytestmark = pytest.mark.slow

SECONDS = 240
LEAVING_SECONDS = 20
OF_ANOTHER_JOB = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "5", "GLOO_SOCKET_IFNAME": "gone0"}
"""Variables of another launcher that a shell may contain; local ranks must ignore them."""
Config = dict[str, Any]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("job")
    plain = tiny_config(folder, tiny_model(folder / "model"))
    plain["model"]["dtype"] = "float64"
    # Long enough to be interrupted.
    training = {**plain["training"], "epochs": 6}
    return {**plain, "trajectory": {"checkpointing": "sqrt"}, "training": training}


@pytest.fixture(scope="module")
def single(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one rank."""
    return finished(tmp_path_factory.mktemp("single"), config, {})


@pytest.fixture(scope="module")
def uninterrupted(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two ranks that divide the model."""
    return finished(tmp_path_factory.mktemp("two"), config, {"ranks": 2, "shards": 2})


def begin(*arguments: object) -> subprocess.Popen[bytes]:
    return begin_module("engine.worker", *arguments, also=OF_ANOTHER_JOB)


def begin_module(
    *arguments: object,
    stdout: IO[bytes] | int = subprocess.PIPE,
    stderr: IO[bytes] | int = subprocess.PIPE,
    also: dict[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    environment = {**child_environment(os.environ), "OMP_NUM_THREADS": "1", **(also or {})}
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment)


def outcome(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    printed, errors = process.communicate(timeout=SECONDS)
    assert printed.count(b"\n") == 1, errors.decode()
    return dict(json.loads(printed))


def begin_run(folder: Path, config: Config, devices: dict[str, Any]) -> subprocess.Popen[bytes]:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({**config, "devices": devices}))
    return begin("run", "--config", file, "--runs", folder, "--id", "run")


def finished(folder: Path, config: Config, devices: dict[str, Any]) -> Path:
    result = outcome(begin_run(folder, config, devices))
    assert result["ok"], result
    return folder / "run"


def scores(run: Path) -> list[Any]:
    reader = ScoreReader(run / "attributions" / "a0001")
    kinds = (reader.token_scores, reader.document_scores, reader.step_scores)
    return [np.stack([kind(query) for query in range(reader.queries)]) for kind in kinds]


def agree(run: Path, other: Path, bound: float) -> None:
    for ours, theirs in zip(scores(run), scores(other), strict=True):
        assert np.array_equal(np.isnan(ours), np.isnan(theirs))
        assert np.nanmax(abs(ours - theirs)) <= bound * np.nanmax(abs(theirs))


def check_mesh(run: Path, shards: int, single: Path) -> None:
    agree(run, single, 1e-9)
    parts = sorted(path.name for path in (run / "trajectory").iterdir() if path.is_dir())
    assert parts == [f"rank-{rank}-of-{shards}" for rank in range(shards) if shards > 1]
    events = [record["event"] for record in read_journal(run / "events.jsonl")]
    expected = [record["event"] for record in read_journal(single / "events.jsonl")]
    assert [e for e in events if e != "checkpoint"] == [e for e in expected if e != "checkpoint"]


def test_two_shards(uninterrupted: Path, single: Path) -> None:
    check_mesh(uninterrupted, 2, single)


@pytest.mark.parametrize(("ranks", "shards"), [(2, 1), (3, 3)])
def test_other_meshes(
    ranks: int, shards: int, config: Config, single: Path, tmp_path: Path
) -> None:
    run = finished(tmp_path, config, {"ranks": ranks, "shards": shards})
    check_mesh(run, shards, single)


class Agent:
    """One of two torchrun agents, each in the role of a machine."""

    def __init__(self, number: int, port: int, folder: Path, *arguments: object) -> None:
        self._printed = folder / f"agent-{number}"
        self._log = folder / f"agent-{number}.log"
        with self._printed.open("wb") as printed, self._log.open("wb") as log:
            self._process = begin_module(
                *("torch.distributed.run", "--nnodes", 2, "--nproc-per-node", 1),
                *("--node-rank", number, "--rdzv-id", "test", "--rdzv-backend", "c10d"),
                *("--rdzv-endpoint", f"127.0.0.1:{port}", "-m", "engine.worker", *arguments),
                stdout=printed,
                stderr=log,
            )

    def is_done(self) -> bool:
        """Whether its rank has printed its outcome and exited, or the agent itself has."""
        if self._process.poll() is not None:
            return True
        with contextlib.suppress(psutil.NoSuchProcess):
            here = psutil.Process(self._process.pid).children()
            return b"\n" in self._printed.read_bytes() and not here
        return False

    def outcome(self) -> dict[str, Any]:
        """The outcome that its rank printed.

        After their ranks exit, torchrun's agents may wait for each other for minutes. The test
        asserts nothing about that.
        """
        try:
            assert self._process.wait(LEAVING_SECONDS) == 0, self._log.read_text()
        except subprocess.TimeoutExpired:
            self._process.kill()
        return dict(json.loads(self._printed.read_bytes()))


def test_two_agents_of_torchrun(config: Config, single: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({**config, "devices": {"shards": 2}}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    run = ("run", "--config", file, "--runs", tmp_path, "--id", "run")
    agents = [Agent(number, port, tmp_path, *run) for number in range(2)]
    deadline = time.monotonic() + SECONDS
    while not all(agent.is_done() for agent in agents):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert all(agent.outcome()["ok"] for agent in agents)
    agree(tmp_path / "run", single, 1e-9)


def until(run: Path, event: str, count: int) -> Iterator[None]:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        file = run / "events.jsonl"
        if file.exists() and file.read_text().count(f'"event":"{event}"') >= count:
            return
        time.sleep(0.02)
        yield
    raise TimeoutError(event)


@pytest.mark.parametrize(
    ("signal_number", "event"),
    [(signal.SIGKILL, "train_step"), (signal.SIGTERM, "replay_step")],
)
def test_an_interrupted_run_resumes_to_the_same_bits(
    signal_number: signal.Signals,
    event: str,
    config: Config,
    uninterrupted: Path,
    tmp_path: Path,
) -> None:
    process = begin_run(tmp_path, config, {"ranks": 2, "shards": 2})
    for _ in until(tmp_path / "run", event, 5):
        assert process.poll() is None
    ranks = psutil.Process(process.pid).children()
    assert len(ranks) == 2
    (ranks[1] if signal_number == signal.SIGKILL else process).send_signal(signal_number)
    result = outcome(process)
    assert not result["ok"]
    if signal_number == signal.SIGKILL:
        assert "rank 1 was killed by SIGKILL" in result["message"]
        assert (result["ending"], result["signal"]) == ("died", signal.SIGKILL)
        (*_, last) = read_journal(tmp_path / "run" / "events.jsonl")
        assert last["event"] in ("interrupted", event)
    else:
        assert result["ending"] == "stopped"
    assert not any(rank.is_running() for rank in ranks)
    again = outcome(begin("resume", "--run", tmp_path / "run"))
    assert again["ok"], again
    agree(tmp_path / "run", uninterrupted, 0.0)
