"""Errors that once gave wrong scores with exit code 0."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchopt
from torch import Tensor, nn

from engine.attribution.fingerprint import Fingerprint
from engine.runs.run_folder import RunFolder
from engine.tasks.task import Origins
from engine.training.data_stream import DataStream
from engine.training.trainer import Trainer
from tests.worker.test_failures import changed, with_model

Outcome = dict[str, Any]
Start = Callable[..., Outcome]


def test_checkpoint_without_its_head(
    config: dict[str, Any], start: Start, model_folder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = with_model(config, model_folder, tmp_path / "m", tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "m"))
    weights = {n: t for n, t in model.state_dict().items() if n != "lm_head.weight"}
    save_file(weights, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    outcome = start(changed(config, "model.from_scratch", False))
    assert outcome["exit_code"] == 2
    assert "has no weights of the right shape for lm_head.weight" in outcome["message"]


def test_model_that_looks_ahead(
    config: dict[str, Any], start: Start, model_folder: Path, tmp_path: Path
) -> None:
    from transformers import BertConfig

    config = with_model(config, model_folder, tmp_path / "m")
    BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=20, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    ).save_pretrained(tmp_path / "m")  # fmt: skip
    outcome = start(config)
    assert outcome["exit_code"] == 2 and "is not a causal language model" in outcome["message"]


@pytest.mark.parametrize(
    "schedule",
    ["sqrt", *(pytest.param(n, marks=pytest.mark.slow) for n in ("all", "gradients", "log"))],
)
def test_model_changed_after_the_run(
    config: dict[str, Any], start: Start, worker: Callable[..., Outcome], model_folder: Path,
    tmp_path: Path, schedule: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = {**config, "trajectory": {"checkpointing": schedule}}
    outcome = start(with_model(config, model_folder, tmp_path / "m"))
    # Without the fingerprint's copies, only the last training step shows the change.
    monkeypatch.setattr(Fingerprint, "origins", lambda _: Origins())
    settings = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(
        json.dumps(settings | {"activation_function": "relu"})
    )
    request = json.dumps({"texts": ["the cat sat"]})
    later = worker("attribute", "--run", outcome["path"], "--request", request)
    assert later["exit_code"] == 1 and "not the one that was trained" in later["message"]


def test_targets_that_are_missing(
    config: dict[str, Any], start: Start, worker: Callable[..., Outcome]
) -> None:
    folder = RunFolder(Path(start(config)["path"]))
    shutil.rmtree(folder.rows_store / "targets" / "c")
    request = json.dumps({"texts": ["the cat sat"]})
    later = worker("attribute", "--run", folder.path, "--request", request)
    assert later["exit_code"] == 1 and "targets lacks values" in later["message"]


def test_query_columns_of_several_types(config: dict[str, Any], start: Start) -> None:
    path = Path(config["queries"]["path"])
    path.write_text('{"text": "the cat sat", "tag": 1}\n{"text": "the sea", "tag": "two"}\n')
    assert start(config)["ok"]


def test_only_abandoned_runs_are_swept(config: dict[str, Any], start: Start, runs: Path) -> None:
    old, young = ".20250101T000000-000000.new", ".20250101T000000-000001.new"
    for name in (old, young, ".important.new"):
        (runs / name).mkdir(parents=True)
        if name != young:
            os.utime(runs / name, (0, 0))
    assert start(config)["ok"]
    assert sorted(path.name for path in runs.iterdir()) == sorted([young, ".important.new", "r1"])


@pytest.mark.parametrize("text", ["", "  "])
def test_empty_text(
    config: dict[str, Any], start: Start, worker: Callable[..., Outcome], text: str
) -> None:
    outcome = start({**config, "queries": None})
    request = json.dumps({"texts": [text]})
    later = worker("attribute", "--run", outcome["path"], "--request", request)
    assert later["exit_code"] == 2 and "a text is empty" in later["message"]


class Sum(nn.Module):
    """Both parameters get the same gradient, and autograd may hand out one tensor for it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.full((3,), v)) for v in (0.5, 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return (x * (self.a + self.b)).sum(1) ** 2


@pytest.mark.parametrize("schedule", ["all", "sqrt"])
def test_parameters_that_share_a_gradient(tmp_path: Path, schedule: Any) -> None:
    rows = [{"x": torch.tensor([1.0, float(i), 2.0]).numpy()} for i in range(4)]
    stream, queries = DataStream(rows, 2), DataStream(rows[:2], 1)
    totals = []
    for micro_batch_size in (None, 1):
        optimizer = torchopt.adamw(1e-2, eps_root=1e-8)
        trainer, state = Trainer.initialize(Sum(), optimizer, micro_batch_size=micro_batch_size)
        folder = tmp_path / f"{micro_batch_size}"
        trainer.train(state, stream, save_dir=folder, checkpointing=schedule)
        each = trainer.backward(folder, stream, queries).weights.sum(0)
        total = trainer.backward(folder, stream, queries, reduction="sum").weights[0]
        assert torch.allclose(total, each, rtol=1e-5)
        totals.append(total)
    assert torch.allclose(*totals, rtol=1e-5)


def test_transformers_model_without_the_weighted_loss(model_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = AutoConfig.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_config(settings, attn_implementation="eager").eval()
    stream = DataStream([{"input_ids": [1, 2, 3]}, {"input_ids": [4, 5, 6]}] * 5, 1)
    trainer, state = Trainer.initialize(model, torchopt.sgd(0.1))
    # Derivatives are compared before anything is trained, whatever the schedule.
    for schedule in ("auto", "all"):
        with pytest.raises(TypeError, match="does not depend on example_weight"):
            trainer.train(state, stream, save_dir=tmp_path / schedule, checkpointing=schedule)
        assert not (tmp_path / schedule).exists()


def test_random_layers_without_a_seed() -> None:
    module = nn.Sequential(nn.Linear(2, 1), nn.Dropout(0.5))
    module.forward = lambda x: nn.Sequential.forward(module, x)[:, 0]  # type: ignore[method-assign]
    stream = DataStream([{"x": torch.ones(2).numpy()}] * 2, 1)
    trainer, state = Trainer.initialize(module, torchopt.sgd(0.1))
    with pytest.raises(TypeError, match="draws random numbers"):
        trainer.train(state, stream)


def test_padding_under_a_mask_is_no_target() -> None:
    row = {"input_ids": [5, 6, 7, 0, 0], "attention_mask": [1, 1, 1, 0, 0]}
    assert DataStream([row], 1).batch(0).denominator == 2
