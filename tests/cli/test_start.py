"""Connecting to the engine, starting it, and the errors if that fails."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from engine.runs import api_schema as api
from engine.runs.environment import environment_of_a_run
from magic_tui.client import engine as client
from magic_tui.client import engine_process
from tests.cli.conftest import Magic
from tests.fake_engine import FakeEngine


def test_an_engine_that_does_not_start_is_exit_code_3_with_the_end_of_its_log(
    runs: Path, magic: Magic, places: Path
) -> None:
    result = magic("ls", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"]["exit_code"] == 3
    assert result.stderr == (
        "  no engine␛[31m is started here\n"
        f"magic: the engine exited at once (exit 7); its log is {places}/state/engine.log\n"
    )


def test_an_engine_that_never_answers_is_given_up(
    runs: Path, magic: Magic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_process, "START_SECONDS", 0.5)
    silent = "import time; print('I load for ever', flush=True); time.sleep(3)"
    monkeypatch.setattr(engine_process, "ENGINE_COMMAND", [sys.executable, "-c", silent])
    began = time.monotonic()
    result = magic("status")
    assert result.exit_code == 3 and time.monotonic() - began < 3
    assert "did not respond within" in result.stderr and "I load for ever" in result.stderr


def test_a_runtime_folder_that_others_may_enter_is_refused(magic: Magic, places: Path) -> None:
    (places / "run").mkdir()
    (places / "run").chmod(0o755)
    result = magic("ls")
    assert result.exit_code == 3 and f"run: chmod 700 {places}/run" in result.stderr


def test_an_engine_of_another_version_has_to_be_stopped_first(
    engine: FakeEngine, magic: Magic
) -> None:
    engine.view["api_version"] = 99
    for verb in (["ls"], ["engine", "status"], ["engine", "start"]):
        result = magic(*verb)
        assert result.exit_code == 3, verb
        assert "has interface version 99" in result.stderr and "magic engine stop" in result.stderr


def test_the_version_spoken_is_the_contract_s() -> None:
    assert client.API_VERSION == api.API_VERSION


def test_an_engine_that_noted_its_socket_is_found_there(
    engine: FakeEngine, magic: Magic, monkeypatch: pytest.MonkeyPatch, places: Path
) -> None:
    monkeypatch.setenv("MAGIC_RUNTIME_DIR", f"{places}/other")
    assert json.loads(magic("engine", "status", "--json").stdout)["socket"] == str(engine.path)


def test_a_started_engine_has_nothing_of_the_terminal(
    magic: Magic, monkeypatch: pytest.MonkeyPatch, places: Path
) -> None:
    script = (
        "import os, json, sys; print(json.dumps({'cwd': os.getcwd(), 'sid': os.getsid(0), "
        "'pid': os.getpid(), 'stdin': os.readlink('/proc/self/fd/0'), 'path': sys.path[0], "
        "'fds': sorted(os.listdir('/proc/self/fd'))}))"
    )
    monkeypatch.setattr(engine_process, "ENGINE_COMMAND", [sys.executable, "-P", "-c", script])
    engine_process.stopped_note().touch()
    assert magic("engine", "start").exit_code == 3
    logged = json.loads((places / "state" / "engine.log").read_text())
    assert logged["cwd"] == "/" and logged["stdin"] == "/dev/null" and logged["path"] != ""
    assert logged["sid"] == logged["pid"] != os.getpid()
    assert len(logged["fds"]) == 4  # its three streams and the listing itself
    assert not engine_process.stopped_note().exists()


def test_what_of_the_environment_goes_along() -> None:
    everything = {
        "HF_HOME": "/c", "HF_TOKEN": "s", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_CACHE": "/t",
        "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "0",
        "PYTORCH_CUDA_ALLOC_CONF": "x", "TORCH_HOME": "/h", "MAGIC_SAVE_SECONDS": "5",
        "HF_API_KEY": "s", "TORCH_secret": "s", "PATH": "/bin", "MAGIC_RUNS": "r",
        "AWS_SECRET": "s",
    }  # fmt: skip
    environment = environment_of_a_run(everything)
    assert set(everything) - set(environment) == {
        "HF_TOKEN", "HF_API_KEY", "TORCH_secret", "PATH", "AWS_SECRET", "MAGIC_RUNS",
    }  # fmt: skip
