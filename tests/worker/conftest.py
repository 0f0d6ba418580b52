"""A tiny model, a few documents, and the worker called in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from engine.worker.main import main
from tests.crash.tiny import tiny_config, tiny_model

torch.set_num_threads(1)

Outcome = dict[str, Any]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Config and tokenizer of a GPT-2 of one layer, no weights."""
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def config(tmp_path: Path, model_folder: Path) -> dict[str, Any]:
    """A config that runs in a second; tests change what they are about."""
    # What auto would choose depends on how busy the machine is.
    return {**tiny_config(tmp_path, model_folder), "trajectory": {"checkpointing": "gradients"}}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The folder of runs."""
    return tmp_path / "runs"


@pytest.fixture
def worker(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Call the worker; returns its outcome after checking the exit code against it."""

    def call(*arguments: object) -> Outcome:
        code = main([str(argument) for argument in arguments])
        output = capsys.readouterr().out
        outcome = dict(json.loads(output))
        assert output.count("\n") == 1
        assert code == outcome.get("exit_code", 0)
        return outcome

    return call


@pytest.fixture
def start(
    tmp_path: Path, runs: Path, worker: Callable[..., Outcome]
) -> Callable[[dict[str, Any], str], Outcome]:
    """Run a config under an id; returns the outcome."""

    def run(config: dict[str, Any], identifier: str = "r1") -> Outcome:
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        return worker("run", "--config", file, "--runs", runs, "--id", identifier)

    return run
