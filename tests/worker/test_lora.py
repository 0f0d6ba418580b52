"""Runs that train adapters: the same initial adapters in every job, and invalid configs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from engine.runs.config import RunConfig
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreReader
from tests.worker.test_losses import TEXT, ask, by_the_model

Outcome = dict[str, Any]
Worker = Callable[..., Outcome]
Start = Callable[..., Outcome]
LORA = {"rank": 3, "alpha": 6, "target_modules": ["c_attn", "c_fc"]}
TRAINED = 3 * (16 + 48) + 3 * (16 + 64)


@pytest.fixture
def adapted(config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The config with adapters on a pretrained model."""
    from transformers import AutoConfig, AutoModelForCausalLM

    path = tmp_path / "pretrained"
    shutil.copytree(config["model"]["path"], path)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
    model.save_pretrained(path)
    return {**config, "model": {"path": str(path), "lora": LORA}}


def test_repeated_request_gives_the_same_bits(
    adapted: dict[str, Any], start: Start, worker: Worker
) -> None:
    run = start(adapted)
    assert run["ok"], run
    # Whatever random numbers were drawn since.
    torch.manual_seed(77)
    request = json.dumps({"queries": adapted["queries"], "reduction": "none"})
    repeated = worker("attribute", "--run", run["path"], "--request", request)
    first, second = (
        ScoreReader(Path(run["path"]) / "attributions" / name)
        for name in (run["attribution"], repeated["attribution"])
    )
    for query in range(2):
        assert first.token_scores(query).any()
        assert np.array_equal(first.token_scores(query), second.token_scores(query))
    events = RunFolder(Path(run["path"])).events()
    assert [event["exact"] for event in events if event["event"] == "reproduced"] == [True, True]


def test_losses_are_those_of_the_trained_adapters(
    adapted: dict[str, Any], start: Start, worker: Worker
) -> None:
    run = Path(start(adapted)["path"])
    (query,) = ask(worker, run, texts=[TEXT])["queries"]
    expected = by_the_model(run, [token["id"] for token in query["tokens"]])
    assert [t["loss"] for t in query["tokens"][1:]] == pytest.approx(expected, rel=1e-5)


def test_plan_counts_trained_and_frozen_parameters(
    adapted: dict[str, Any], config: dict[str, Any], worker: Worker, tmp_path: Path
) -> None:
    plans = []
    for number, one in enumerate((config, adapted)):
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump(one))
        plans.append(worker("plan", "--config", file, "--runs", tmp_path / "runs"))
    whole, lora = plans
    assert (lora["parameters"], lora["frozen_parameters"]) == (TRAINED, whole["parameters"])
    assert whole["frozen_parameters"] == 0
    disk = [{s["name"]: s["disk_bytes"] for s in plan["schedules"]} for plan in plans]
    ratio = TRAINED / whole["parameters"]
    # Names and shapes in the files' heads come on top, a good part where there is so little else.
    assert ratio < disk[1]["all"] / disk[0]["all"] < 1.5 * ratio


BAD = [
    ({"rank": 0}, "model.lora.rank should be greater than or equal to 1, got 0"),
    ({"alpha": 0}, "model.lora.alpha should be greater than 0, got 0"),
    ({"dropout": 0.1}, "model.lora.dropout is not a known key; known here: rank, alpha"),
    ({"target_modules": []}, "model.lora.target_modules: name at least one layer, or all-linear"),
    ({"target_modules": None}, "model.lora.target_modules: name at least one layer"),
    ({"target_modules": [["wte"]]}, "model.lora.target_modules.0 should be a valid string"),
    (
        {"target_modules": ["all-linear", "wte"]},
        "model.lora: target_modules: all-linear cannot be combined with names; remove the names",
    ),
    ({"target_modules": "c_atn"}, "has no linear layer or embedding named c_atn; it has c_attn, "),
    ({"target_modules": ["wte", "attn"]}, "no linear layer or embedding named attn; it has "),
]


@pytest.mark.parametrize(("change", "sentence"), BAD)
def test_bad_adapters(
    config: dict[str, Any], start: Start, change: dict[str, Any], sentence: str
) -> None:
    config["model"]["lora"] = LORA | change
    outcome = start(config)
    assert outcome["exit_code"] == 2
    assert sentence in outcome["message"] and "\n" not in outcome["message"]


def test_one_name_needs_no_list() -> None:
    lora = {"target_modules": "all-linear"}
    config = RunConfig.model_validate({"model": {"path": "m", "lora": lora}, "data": {"path": "d"}})
    assert config.model.lora is not None
    assert config.model.lora.target_modules == ("all-linear",)
    again = RunConfig.model_validate(config.model_dump(mode="json"))
    assert again == config and again.digest() == config.digest()
