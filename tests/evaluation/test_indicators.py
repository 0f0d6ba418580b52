"""Metasmoothness from three trainings, and numerical agreement of two replays."""

import json

import numpy as np
import pytest
import torch

from engine.attribution.prepare import restore_run
from engine.attribution.prepared_run import PreparedRun
from engine.evaluation.metasmoothness import metasmoothness
from engine.evaluation.numerical_agreement import AGREEMENT_FILE
from engine.replay.ranks import SINGLE_RANK
from engine.runs.errors import UsageError
from engine.runs.request import ValidationRequest
from engine.runs.run_folder import RunFolder
from tests.evaluation.test_validating import phi, scores, validate

INDICATORS = ValidationRequest(count=0, drop=(0.3,), metasmoothness=True, numerical_agreement=True)


def test_metasmoothness_weights_coordinates_by_their_movement() -> None:
    first = {"a": torch.zeros(3), "b": torch.zeros(1)}
    half = {"a": torch.tensor([1.0, -1.0, 0.0]), "b": torch.tensor([2.0])}
    last = {"a": torch.tensor([3.0, -2.0, 5.0]), "b": torch.tensor([1.0])}
    # Keeps its direction: 3 and 2. Starts late: 5. Reverses: 1.
    expected = (3 + 2 + 0 - 1) / (3 + 2 + 5 + 1)
    assert metasmoothness(first, half, last, SINGLE_RANK) == pytest.approx(expected)
    assert metasmoothness(first, first, first, SINGLE_RANK) == 1.0


def test_indicators_of_a_smooth_training(run: RunFolder, job: PreparedRun) -> None:
    events = validate(run, job, INDICATORS)
    smooth = json.loads(run.metasmoothness_file.read_text())
    assert 0.9 < smooth["metasmoothness"] <= 1.0 and smooth["subset"] == "0.3-seed0-0"
    full, half, last = (np.array(each) for each in smooth["measurements"]["a0001"])
    assert np.array_equal(full, phi(run, job, [1.0] * 7))
    assert np.allclose(half - full, last - half, atol=1e-3) and (full != last).all()
    agreed = json.loads((run.attributions / "a0001" / AGREEMENT_FILE).read_text())
    assert agreed["micro_batch_size"] == 1
    assert min(agreed["correlation"]) > 1 - 1e-12 and 0 < max(agreed["difference"]) < 1e-12
    assert len(agreed["difference"]) == len(scores(run))
    phases = [(e["phase"], e["total"]) for e in events if e["event"] == "phase"]
    assert phases == [("retrain", 0), ("retrain", 12), ("probe", 6)]
    probed = [event["done"] for event in events if event["event"] == "probe_step"]
    assert probed == [1, 2, 3, 4, 5, 6]


def test_indicators_are_measured_once(run: RunFolder, job: PreparedRun) -> None:
    validate(run, job, INDICATORS)
    before = run.metasmoothness_file.stat().st_mtime_ns
    events = validate(run, job, INDICATORS)
    assert run.metasmoothness_file.stat().st_mtime_ns == before
    assert not [e for e in events if e["event"] == "probe_step"]


def test_batches_of_one_row_cannot_be_split(attributed: RunFolder, run: RunFolder) -> None:
    single = restore_run(attributed, torch.device("cpu")).with_micro_batch(1)
    with pytest.raises(UsageError, match="have one row"):
        validate(run, single, INDICATORS)
