"""Findings name finite problems and their step; ordinary trainings have none."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.attribution.findings import Finding, LossMonitor, replay_findings
from engine.evaluation.trust import read_verdict
from engine.runs.checksummed import read_record
from engine.runs.run_folder import RunFolder
from engine.scores.run_records import warnings_view

Outcome = dict[str, Any]


def findings_of(losses: Iterable[float]) -> list[Finding]:
    monitor = LossMonitor()
    findings = [f for step, loss in enumerate(losses) for f in monitor.add(step, float(loss))]
    return findings + monitor.finish()


def kinds(losses: Iterable[float]) -> list[tuple[str, int | None]]:
    return [(finding.kind, finding.step) for finding in findings_of(losses)]


def falling(start: float, end: float, steps: int, noise: float, seed: int) -> np.ndarray:
    """A loss that falls, each batch's off by ``noise`` of it."""
    random = np.random.default_rng(seed)
    level = end + (start - end) * np.exp(-np.arange(steps) / (steps / 4))
    return np.asarray(level * np.exp(noise * random.normal(size=steps)))


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1, 0.3])
@pytest.mark.parametrize(
    ("start", "end", "steps"),
    [(10.8, 3.2, 400), (2.3, 1.9, 60), (1.5, 0.01, 300), (2.0, 2.0, 1000), (3.0, 2.5, 8)],
)
def test_ordinary_losses_have_no_findings(
    start: float, end: float, steps: int, noise: float
) -> None:
    for seed in range(20):
        assert kinds(falling(start, end, steps, noise, seed)) == []


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
def test_a_jump_is_found_at_its_step(noise: float) -> None:
    losses = falling(10.8, 6.5, 100, noise, 0)
    losses[40] = losses[39] + 4.1
    assert kinds(losses) == [("jump", 40)]
    early = falling(8.0, 6.0, 60, noise, 1)
    early[1:] += 4.1
    assert ("jump", 1) in kinds(early)


def test_at_most_three_jumps_are_reported() -> None:
    losses = np.full(400, 5.0)
    losses[80::80] = 12.0
    assert kinds(losses) == [("jump", 80), ("jump", 160), ("jump", 240)]


@pytest.mark.parametrize("steps", [8, 40, 200])
def test_finite_divergence_is_found(steps: int) -> None:
    losses = 3.0 * np.exp(np.arange(steps) * np.log(1e51 / 3) / steps)
    (diverged,) = [finding for finding in findings_of(losses) if finding.kind == "diverged"]
    assert diverged.step is not None and "the training diverged" in diverged.message


def test_known_steps_are_ignored() -> None:
    losses = falling(10.8, 6.5, 60, 0.02, 0)
    losses[30] += 5
    monitor = LossMonitor()
    for step, loss in enumerate(losses[:31].tolist()):
        monitor.add(step, loss)
    again = [f for step in range(25, 60) for f in monitor.add(step, float(losses[step]))]
    assert again == []


def test_findings_of_a_replay() -> None:
    calm = {"query": 0, "growth": 1e4, "from": 0.8, "step": 3}
    assert replay_findings([1e-6, 9e-3], calm, [(1.0, 6.0), (59.0, 6.0)]) == []
    wild = {"query": 1, "growth": 1.75e6, "from": 0.8, "step": 3}
    (exploded,) = replay_findings([0.0], wild, [(1.0, 6.0)])
    assert (exploded.kind, exploded.step) == ("exploded", 3) and "1.8e+06" in exploded.message
    (absurd,) = replay_findings([0.0, 0.0], calm, [(1.0, 6.0), (1e4, 6.0)])
    assert absurd.kind == "absurd" and "query 1" in absurd.message
    (rounding,) = replay_findings([0.02, 0.001], calm, [(1.0, 6.0)] * 2)
    assert rounding.kind == "rounding" and "query 0 off by about 2 %" in rounding.message
    (zero,) = replay_findings([None, 1e-6], calm, [(0.0, 6.0)] * 2)
    assert zero.kind == "zero"


def with_optimizer(config: dict[str, Any], **optimizer: Any) -> dict[str, Any]:
    training = {**config["training"], "optimizer": optimizer}
    return {**config, "training": training}


def warned(run: RunFolder) -> list[str]:
    return [e["message"] for e in run.events() if e["event"] == "warning"]


def test_exploding_cotangents_are_in_warnings_and_verdict(
    config: dict[str, Any], start: Callable[..., Outcome]
) -> None:
    config = with_optimizer(config, learning_rate=0.3, eps_root=1e-14)
    config["training"]["epochs"] = 12
    run = RunFolder(Path(start(config)["path"]))
    record = json.loads((run.attributions / "a0001" / "complete.json").read_text())
    assert len(record["rounding"]) == 2
    reported = {finding["kind"] for finding in record["findings"]}
    assert reported & {"exploded", "absurd"} and record["cotangents"]["growth"] > 1e3
    assert {finding["message"] for finding in record["findings"]} <= set(warned(run))
    assert read_verdict(run.path, None).symbol == "✗"
    view = warnings_view(run.path)
    assert view["rounding"] == record["rounding"] and view["warnings"]


def test_ordinary_run_has_no_warnings(
    config: dict[str, Any], start: Callable[..., Outcome]
) -> None:
    run = RunFolder(Path(start(with_optimizer(config, learning_rate=1e-3))["path"]))
    record = json.loads((run.attributions / "a0001" / "complete.json").read_text())
    assert record["findings"] == [] and not run.findings_file.exists()
    assert all(0 < error < 1e-4 for error in record["rounding"])
    assert read_verdict(run.path, None).symbol == "○"


def test_divergence_is_reported_without_queries(
    config: dict[str, Any], start: Callable[..., Outcome]
) -> None:
    config = with_optimizer({**config, "queries": None}, name="sgd", learning_rate=20.0)
    config["training"] |= {"epochs": 8, "max_grad_norm": 1.0}
    outcome = start(config)
    assert outcome["ok"], outcome
    run = RunFolder(Path(outcome["path"]))
    findings = (read_record(run.findings_file) or {})["findings"]
    assert {finding["kind"] for finding in findings} & {"diverged", "jump"}
    assert [finding["message"] for finding in findings] == warned(run)
    assert warnings_view(run.path)["warnings"] == warned(run)


def test_adam_without_eps_root_warns_before_training(
    config: dict[str, Any], start: Callable[..., Outcome], worker: Callable[..., Outcome],
    tmp_path: Path
) -> None:  # fmt: skip
    config = with_optimizer(config, learning_rate=1e-3, eps_root=0.0)
    outcome = start(config)
    run = RunFolder(tmp_path / "runs" / "r1")
    events = run.events()
    (place,) = [i for i, e in enumerate(events) if "eps_root is 0" in str(e.get("message"))
                and e["event"] == "warning"]  # fmt: skip
    assert place < next(i for i, e in enumerate(events) if e["event"] == "train_step")
    # The predicted divergence happens, and a resume repeats it.
    assert not outcome["ok"] and "cotangent is not finite" in outcome["message"]
    assert outcome["repeats"] is True
    file = tmp_path / "config.yaml"
    planned = worker("plan", "--config", file, "--runs", tmp_path / "runs")
    assert any("eps_root is 0" in sentence for sentence in planned["warnings"])
