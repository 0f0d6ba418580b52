"""A run that takes a second, its attribution, and its job for retraining."""

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.attribution.prepare import restore_run
from engine.attribution.prepared_run import PreparedRun
from engine.attribution.process import Stop
from engine.runs.config import RunConfig
from engine.runs.run_folder import RunFolder
from engine.runs.submission import submit_run
from engine.worker.standalone import run_standalone
from tests.crash.tiny import tiny_config, tiny_model

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def attributed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """In float64, smooth enough to be predicted; tests copy it before they write into it."""
    folder = tmp_path_factory.mktemp("attributed")
    config: dict[str, Any] = tiny_config(folder, tiny_model(folder / "model"))
    config["model"]["dtype"] = "float64"
    config["training"]["optimizer"] = {"name": "sgd", "learning_rate": 0.05}
    config["trajectory"] = {"checkpointing": "gradients"}
    submitted = submit_run(folder / "runs", "r1", RunConfig.model_validate(config))
    run_standalone(submitted, Stop())
    return RunFolder(folder / "runs" / "r1")


@pytest.fixture
def run(attributed: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of it."""
    import shutil

    shutil.copytree(attributed.path, tmp_path / "runs" / "r1")
    return RunFolder(tmp_path / "runs" / "r1")


@pytest.fixture(scope="session")
def job(attributed: RunFolder) -> PreparedRun:
    """Its job."""
    return restore_run(attributed, torch.device("cpu"))
