"""The mean of two seeds' scores is the derivative of the mean φ of the two trainings."""

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.attribution.prepare import restore_run
from engine.attribution.prepared_run import PreparedRun
from engine.attribution.process import Stop
from engine.attribution.reporting import Reporter
from engine.evaluation.retraining import Retrainer, retrain
from engine.evaluation.seeds import mean_over_seeds, mean_scores
from engine.evaluation.validate import Validator
from engine.runs.journal import read_journal
from engine.runs.request import ValidationRequest
from engine.runs.run_folder import RunFolder
from engine.runs.submission import submit_run
from engine.runs.tables import RowTable
from engine.worker.standalone import run_standalone

Two = list[tuple[RunFolder, PreparedRun]]


@pytest.fixture
def two(run: RunFolder, job: PreparedRun, tmp_path: Path) -> Two:
    """A run, and the same with another seed."""
    config = run.config().model_copy(update={"seed": 1})
    run_standalone(submit_run(tmp_path / "runs", "r2", config), Stop())
    other = RunFolder(tmp_path / "runs" / "r2")
    return [(run, job), (other, restore_run(other, torch.device("cpu")))]


def mean_phi(two: Two, weights: np.ndarray) -> np.ndarray:
    """φ (query,) on average over trainings with these data weights, (document,)."""
    values = []
    for run, job in two:
        state, losses = retrain(job, weights), Retrainer(run, job, False)._query_losses["a0001"]
        values.append([job.trainer.evaluator.value(state, measurement) for measurement in losses])
    return np.mean(values, 0)


def test_against_finite_differences_and_retrainings(two: Two) -> None:
    for run, job in two:
        request = ValidationRequest(drop=(0.3,), count=5)
        Validator(run, "a0001", request, Reporter(None)).run(job)
    mean = mean_over_seeds([run for run, _ in two])
    steps = [RowTable(run.rows_store).steps() for run, _ in two]
    assert [each.seed for each in mean.runs] == [0, 1] and (steps[0] != steps[1]).any()
    means = np.array([mean_scores(mean.runs, query)[0] for query in (0, 1)])
    nudge = np.zeros(7)
    nudge[2] = 1e-4
    slopes = (mean_phi(two, 1 + nudge) - mean_phi(two, 1 - nudge)) / 2e-4
    assert slopes == pytest.approx(means[:, 2], rel=1e-5)

    assert mean.kinds == ["drop 0.3"] and mean.validations is not None
    assert mean.validations[0].by_kind["drop 0.3"].subsets == 5
    banks = [{r["subset"]: r for r in read_journal(run.retrainings_file)} for run, _ in two]
    names = [f"0.3-seed0-{number}" for number in range(5)]
    actual = np.mean([[b[n]["measurements"]["a0001"] for n in names] for b in banks], 0)
    left_out = [banks[1][name]["documents"] for name in names]
    predicted = mean_phi(two, np.ones(7)) - [means[:, each].sum(1) for each in left_out]
    for query in (0, 1):
        ranks = [values[:, query].argsort().argsort() for values in (predicted, actual)]
        expected = 1 - 6 * ((ranks[0] - ranks[1]) ** 2).sum() / (5 * 24)
        assert mean.lds("drop 0.3", query).mean_scores == pytest.approx(expected)
