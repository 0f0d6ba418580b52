"""Invalid input and failures: one sentence, the right exit code, no partial files, no lost work."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.runs.run_folder import RunFolder
from engine.runs.states import RunState
from tests.crash.ranks import current_job

Outcome = dict[str, Any]
Start = Callable[..., Outcome]


def changed(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The config with one key, given by its dotted path, set."""
    *blocks, last = path.split(".")
    result = json.loads(json.dumps(config))
    block = result
    for name in blocks:
        block = block[name]
    block[last] = value
    return dict(result)


BAD = [
    (
        "attribution.query_tolerance",
        0.1,
        "attribution.query_tolerance was removed: queries are replayed exactly; remove it",
    ),
    ("data.pth", 1, "data.pth is not a known key; did you mean path?"),
    ("training.epochs", "many", "training.epochs should be a valid integer"),
    ("training.batch_size", 8, "training.batch_size: 8 is more than the number of rows, 7"),
    ("data.path", "/nowhere/train.jsonl", "data.path: no file or folder at"),
    ("data.text_column", "txet", "data.text_column: no column 'txet'"),
    ("data.split", "train[:0]", "data.split"),
    ("data.sequence_length", 33, "data.sequence_length: 33 is more than the 32 positions"),
    ("model.path", "/nowhere/model", "model.path: cannot load the tokenizer of /nowhere/model"),
    ("model.dtype", "bfloat16", "model.dtype: bfloat16 rounds too coarsely"),
    ("queries.path", "/nowhere/q.jsonl", "queries.path: no file or folder at"),
    ("queries.reduction", "median", "queries.reduction should be"),
    ("trajectory.checkpointing", "some", "trajectory.checkpointing"),
]


@pytest.mark.parametrize(("key", "value", "sentence"), BAD, ids=[key for key, _, _ in BAD])
def test_bad_config(
    config: dict[str, Any], start: Start, runs: Path, key: str, value: Any, sentence: str
) -> None:
    outcome = start(changed({"trajectory": {}, "attribution": {}, **config}, key, value))
    assert outcome["exit_code"] == 2
    assert sentence in outcome["message"] and "\n" not in outcome["message"]
    remaining = [path.name for run in runs.glob("*") for path in run.iterdir()]
    assert set(remaining) <= {"events.jsonl", "jobs", "run_config.yaml"}
    assert all(current_job(RunFolder(run))[1] is RunState.FAILED for run in runs.glob("*"))


def test_documents_without_a_target_if_none_is_left_or_strict(
    config: dict[str, Any], start: Start, runs: Path, tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "the cat sat"}\n{"text": "a"}\n')
    outcome = start(changed(config, "data.strict", True))
    assert outcome["exit_code"] == 2
    assert "1 of a single token (line 2 of train.jsonl)" in outcome["message"]
    (tmp_path / "train.jsonl").write_text('{"text": ""}\n{"text": "a"}\n')
    outcome = start(config, "r2")
    assert outcome["exit_code"] == 2
    assert "data: 2 of 2 documents have nothing to predict: 1 empty, 1" in outcome["message"]
    assert not any(runs.glob("*/documents.parquet"))


def test_a_query_without_a_target_is_refused_with_its_line(
    config: dict[str, Any], start: Start, tmp_path: Path
) -> None:
    (tmp_path / "queries.jsonl").write_text('{"text": "the cat sat"}\n{"text": " "}\n')
    outcome = start(config)
    assert outcome["exit_code"] == 2
    assert (
        "queries: 1 of 2 queries has nothing to predict: 1 blank (line 2 of queries.jsonl)"
        in (outcome["message"])
    )


def with_model(config: dict[str, Any], folder: Path, target: Path, **fields: Any) -> dict[str, Any]:
    """The config with a copy of the model whose config.json has some fields changed."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    settings = json.loads((target / "config.json").read_text()) | fields
    (target / "config.json").write_text(json.dumps(settings))
    return changed(config, "model.path", str(target))


def test_dropout_is_refused_cleared_or_forced(
    config: dict[str, Any], start: Start, model_folder: Path, tmp_path: Path
) -> None:
    config = with_model(config, model_folder, tmp_path / "m", resid_pdrop=0.1)
    refused = start(config)
    assert refused["exit_code"] == 2 and "model.dropout: 0" in refused["message"]
    assert start(changed(config, "model.dropout", 0), "cleared")["ok"]
    forced = start({**config, "force": ["dropout"]}, "forced")
    assert forced["ok"], forced
    events = RunFolder(Path(forced["path"])).events()
    assert "dropout was forced" in events[0]["warnings"][0]
    assert [e["exact"] for e in events if e["event"] == "reproduced"] == [True]


def test_tokenizer_larger_than_the_model(
    config: dict[str, Any], start: Start, model_folder: Path, tmp_path: Path
) -> None:
    outcome = start(with_model(config, model_folder, tmp_path / "m", vocab_size=20))
    assert outcome["exit_code"] == 2 and "embeds only 20 tokens" in outcome["message"]


def test_operation_without_a_second_derivative(
    config: dict[str, Any], start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers.models.gpt2 import modeling_gpt2

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, grad: Any) -> Any:
            return grad.clone()

    plain = modeling_gpt2.GPT2MLP.forward
    monkeypatch.setattr(
        modeling_gpt2.GPT2MLP, "forward", lambda self, x: Once.apply(plain(self, x))
    )
    outcome = start(config)
    assert outcome["exit_code"] == 2
    assert "cannot be differentiated twice (Once)" in outcome["message"]


def test_divergence_names_the_step(config: dict[str, Any], start: Start) -> None:
    training = {**config["training"], "optimizer": {"name": "sgd", "learning_rate": 1e30}}
    outcome = start({**config, "training": training})
    assert outcome["exit_code"] == 1
    assert "is not finite at step" in outcome["message"] and "learning_rate" in outcome["message"]


def test_cotangent_without_eps_root(config: dict[str, Any], start: Start) -> None:
    # Embeddings of unused tokens have no gradient: the root's derivative is infinite at 0.
    training = {**config["training"], "optimizer": {"learning_rate": 1e-3, "eps_root": 0.0}}
    outcome = start({**config, "training": training})
    assert outcome["exit_code"] == 1
    assert "cotangent is not finite at step" in outcome["message"]
    assert "eps_root" in outcome["message"]


def test_full_disk(
    config: dict[str, Any], start: Start, runs: Path, monkeypatch: pytest.MonkeyPatch, worker: Any
) -> None:
    from engine.trajectory import tensor_files

    real = tensor_files.write_atomically

    def full(path: Path, data: bytes) -> None:
        if path.name.startswith("gradient-00000002"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(tensor_files, "write_atomically", full)
        outcome = start(config)
    assert outcome["exit_code"] == 1 and "no disk space left" in outcome["message"]
    assert outcome["ending"] == "full"
    assert current_job(RunFolder(runs / "r1"))[1] is RunState.BLOCKED
    assert worker("resume", "--run", runs / "r1")["ok"]


def test_damaged_trajectory_files_are_rebuilt(
    config: dict[str, Any], start: Start, worker: Callable[..., Outcome]
) -> None:
    folder = RunFolder(Path(start(config)["path"]))
    files = sorted(folder.trajectory.glob("*.safetensors"))
    whole = {path: path.read_bytes() for path in files}
    for number, path in enumerate(files, start=1):
        if number % 2:
            path.unlink()
        else:
            path.write_bytes(whole[path][:-9] + bytes([whole[path][-9] ^ 1]) + whole[path][-8:])
        request = json.dumps({"texts": ["the cat"]})
        assert worker("attribute", "--run", folder.path, "--request", request)["ok"]
        assert {path: path.read_bytes() for path in files} == whole
        messages = [e["message"] for e in folder.events() if e["event"] == "warning"]
        assert len(messages) == number and "is damaged; it is computed again" in messages[-1]
        assert "differs" not in messages[-1]


def test_attribute_without_a_trajectory(
    config: dict[str, Any], start: Start, worker: Callable[..., Outcome]
) -> None:
    import shutil

    folder = RunFolder(Path(start(config)["path"]))
    shutil.rmtree(folder.trajectory)
    request = json.dumps({"texts": ["the cat"]})
    outcome = worker("attribute", "--run", folder.path, "--request", request)
    assert outcome["exit_code"] == 1 and "holds no complete trajectory" in outcome["message"]


def test_interrupt_is_recorded(config: dict[str, Any], tmp_path: Path, runs: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(changed(config, "training.epochs", 3000)))
    command = [sys.executable, "-m", "engine.worker", "run", "--config", str(file)]
    command += ["--runs", str(runs), "--id", "r1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    events = runs / "r1" / "events.jsonl"
    deadline = time.monotonic() + 120
    while not (events.exists() and b"train_step" in events.read_bytes()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    assert current_job(RunFolder(runs / "r1"))[1] is RunState.RUNNING
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and json.loads(output)["exit_code"] == 130
    assert current_job(RunFolder(runs / "r1"))[1] is RunState.PAUSED
