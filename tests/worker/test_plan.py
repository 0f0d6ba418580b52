"""The plan of a run compared with what the run then takes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from engine.attribution import prediction
from engine.attribution.prepare import prepare_run, restore_run
from engine.cost.step_times import measure_steps
from engine.replay.state import Batch, Params
from engine.runs.atomic import size_on_disk
from engine.runs.read_config import parse_config
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreReader
from tests.crash.tiny import SENTENCES

Outcome = dict[str, Any]
Start = Callable[..., Outcome]


class Clock:
    """A clock that only a loss advances: by 0.5 s and 0.01 s a token."""

    def __init__(self, loss: Any) -> None:
        self.loss = loss
        self.now = 0.0

    def __call__(self, params: Params, batch: Batch) -> torch.Tensor:
        self.now += 0.5 + 0.01 * batch.inputs["input_ids"].numel()
        return self.loss(params, batch)

    def perf_counter(self) -> float:
        return self.now


def test_step_times_depend_on_the_widths_of_batches(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [text[: 5 + 9 * place] for place, text in enumerate(SENTENCES)]
    (tmp_path / "wide.jsonl").write_text("\n".join(f'{{"text": "{line}"}}' for line in lines))
    config["data"]["path"] = str(tmp_path / "wide.jsonl")
    config["training"] |= {"batch_size": 1, "epochs": 1}
    job, _ = prepare_run(parse_config(config, tmp_path / "config.yaml"), torch.device("cpu"))
    clock = Clock(job.trainer.step.loss)
    job.trainer.step.loss = clock
    monkeypatch.setattr("engine.cost.step_times.time", clock)
    stream = job.stream("token")
    widths = [stream.batch(step).inputs["input_ids"].numel() for step in range(len(stream))]
    assert stream.sizes().tolist() == widths and max(widths) > 3 * min(widths)
    queries = [replace(stream.batch(step), key=()) for step in (0, 1)]
    times = measure_steps(job.trainer.step, job.start, stream, queries, together=2)
    mean = 0.5 + 0.01 * np.mean(widths)
    assert times.step.gradient == pytest.approx(mean)
    assert times.step.graph == pytest.approx(mean)
    assert (times.step.update, times.step.query) == (0.0, 0.0)
    each = sum(0.5 + 0.01 * width for width in widths[:2])
    assert times.evaluation(queries) == pytest.approx(each * 5 / 3)


def test_predicted_disk_is_what_is_written(
    config: dict[str, Any], start: Start, worker: Start, runs: Path, tmp_path: Path
) -> None:
    file = tmp_path / "planned.yaml"
    file.write_text(yaml.safe_dump({**config, "trajectory": {"checkpointing": "auto"}}))
    plan = worker("plan", "--config", file, "--runs", runs)
    for option in plan["schedules"]:
        kind = option["name"]
        queries = config["queries"] if kind == plan["chosen"] else None
        outcome = start({**config, "queries": queries, "trajectory": {"checkpointing": kind}}, kind)
        folder = RunFolder(Path(outcome["path"]))
        written = size_on_disk(folder.trajectory) - sum(
            path.stat().st_size for path in folder.trajectory.glob("manifest*")
        )
        assert written == pytest.approx(option["disk_bytes"], rel=0.01)
        [planned] = [event for event in folder.events() if event["event"] == "planned"]
        assert planned["disk"] == option["disk_bytes"]
        # The process is at least as large as the libraries that it has loaded.
        assert option["memory_bytes"] > 10**8 and option["host_memory_bytes"] is None
        if queries is not None:
            scores = size_on_disk(folder.attributions / "a0001" / "scores.zarr")
            assert 0 < plan["scores_bytes"] < scores + 10**5


def scores_of(outcome: Outcome) -> Any:
    reader = ScoreReader(Path(outcome["path"]) / "attributions" / outcome["attribution"])
    return np.stack([reader.token_scores(query) for query in range(reader.queries)])


def test_auto_micro_batches_are_chosen_once(
    config: dict[str, Any], start: Start, worker: Start, tmp_path: Path
) -> None:
    def sized(size: Any, gigabytes: float) -> dict[str, Any]:
        training = {**config["training"], "micro_batch_size": size}
        return {**config, "training": training, "attribution": {"memory_budget_gb": gigabytes}}

    small = start(sized("auto", 1e-6), "small")
    folder = RunFolder(Path(small["path"]))
    assert folder.prepared()["micro_batch_size"] == 1
    assert restore_run(folder, torch.device("cpu")).trainer.step.micro_batch_size == 1
    again = worker(
        "attribute", "--run", folder.path, "--request", '{"texts": ["the cat sat by the fire"]}'
    )
    expected = scores_of(start(sized(1, 1e-6), "one"))
    assert np.array_equal(scores_of(small), expected)
    assert np.array_equal(scores_of(again)[0], expected[0])

    file = tmp_path / "large.yaml"
    file.write_text(yaml.safe_dump(sized("auto", 1.0)))
    plan = worker("plan", "--config", file, "--runs", tmp_path)
    assert plan["micro_batch_size"] == 3
    assert plan["micro_batch_reason"].startswith("all rows of a step at once: ")


def test_too_little_memory_is_reported_with_a_remedy(
    config: dict[str, Any], start: Start, worker: Start, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    file = tmp_path / "short.yaml"
    file.write_text(yaml.safe_dump({**config, "attribution": {"memory_budget_gb": 1e-6}}))
    [warning] = worker("plan", "--config", file, "--runs", tmp_path)["warnings"]
    assert "1 kB may be used: lower training.micro_batch_size" in warning
    assert warning.endswith("or raise attribution.memory_budget_gb")
    monkeypatch.setattr(prediction, "free_memory", lambda device: 1000)
    refused = start(config)
    assert refused["exit_code"] == 2 and "lower training.micro_batch_size" in refused["message"]
