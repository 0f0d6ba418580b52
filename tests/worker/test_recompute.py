"""Activation checkpointing: the same scores, and invalid configs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from engine.runs.config import RunConfig
from engine.runs.score_store import ScoreReader

Outcome = dict[str, Any]
Start = Callable[..., Outcome]


def recomputing(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "training": {**config["training"], "activation_checkpointing": True}}


def test_scores_equal_those_with_stored_activations(config: dict[str, Any], start: Start) -> None:
    outcomes = [start(config, "kept"), start(recomputing(config), "recomputed")]
    assert all(outcome["ok"] for outcome in outcomes), outcomes
    whole, again = (
        ScoreReader(Path(outcome["path"]) / "attributions" / outcome["attribution"])
        for outcome in outcomes
    )
    for query in range(whole.queries):
        ours, expected = again.token_scores(query), whole.token_scores(query)
        known = ~np.isnan(expected)
        assert np.array_equal(known, ~np.isnan(ours)) and expected[known].any()
        error = abs(ours - expected)[known].max()
        assert error <= 1e-5 * abs(expected[known]).max()


def test_it_changes_the_digest(config: dict[str, Any]) -> None:
    stored = RunConfig.model_validate(config)
    config["training"]["activation_checkpointing"] = True
    assert RunConfig.model_validate(config).digest() != stored.digest()


def test_dropout_is_refused(
    config: dict[str, Any], tmp_path: Path, worker: Callable[..., Outcome], runs: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(config["model"]["path"], folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "attn_pdrop": 0.1}))
    model = {**config["model"], "path": str(folder)}
    file = tmp_path / "dropout.yaml"
    file.write_text(yaml.safe_dump({**recomputing(config), "model": model, "force": ["dropout"]}))
    failure = worker("plan", "--config", file, "--runs", runs)
    assert failure["exit_code"] == 2
    assert failure["message"].startswith("training.activation_checkpointing: layers with dropout")
