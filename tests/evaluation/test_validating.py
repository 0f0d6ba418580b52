"""Validation: predictions against retrainings, resuming, and equal bits every time."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.attribution.prepared_run import PreparedRun
from engine.attribution.reporting import Reporter
from engine.evaluation import validate as validate_module
from engine.evaluation.retraining import Retrainer, retrain
from engine.evaluation.subsets import NOTHING, Subset
from engine.evaluation.validate import Validator
from engine.runs.errors import RunError, StoppedError, UsageError
from engine.runs.journal import read_journal
from engine.runs.request import ValidationRequest
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreReader

SMALL = ValidationRequest(drop=(0.3,), count=3, leave_one_out=1, drop_top=(2,))


class Recorder(Reporter):
    """A reporter that records events in a list."""

    def __init__(self) -> None:
        super().__init__(None)
        self.events: list[dict[str, Any]] = []

    def __call__(self, event: str, /, **facts: Any) -> None:
        self.events.append({"event": str(event), **facts})


def validate(
    run: RunFolder, job: PreparedRun, request: ValidationRequest = SMALL
) -> list[dict[str, Any]]:
    recorder = Recorder()
    Validator(run, "a0001", request, recorder).run(job)
    return recorder.events


def table(run: RunFolder) -> list[dict[str, str]]:
    with (run.attributions / "a0001" / "validation.csv").open() as file:
        return list(csv.DictReader(file))


def scores(run: RunFolder) -> Any:
    reader = ScoreReader(run.attributions / "a0001")
    return np.stack([reader.document_scores(query) for query in range(reader.queries)])


def phi(run: RunFolder, job: PreparedRun, weights: Sequence[float]) -> Any:
    state = retrain(job, np.array(weights))
    losses = Retrainer(run, job, False)._query_losses["a0001"]
    return np.array([job.trainer.evaluator.value(state, loss) for loss in losses])


def test_prediction_error_is_quadratic_in_the_weight_change(
    run: RunFolder, job: PreparedRun
) -> None:
    full, slopes = phi(run, job, [1.0] * 7), scores(run)
    for document in (1, 4):
        errors = []
        for change in (0.2, 0.1, 0.05):
            weights = np.ones(7)
            weights[document] -= change
            off = phi(run, job, weights) - (full - change * slopes[:, document])
            errors.append(np.abs(off))
        ratios = np.array(errors[:-1]) / errors[1:]
        assert np.allclose(ratios, 4.0, atol=0.35), ratios


def test_retrainings_of_other_inputs_are_not_used(run: RunFolder, job: PreparedRun) -> None:
    few = ValidationRequest(drop=(0.3,), count=2)
    validate(run, job, few)
    first = table(run)
    facts = run.prepared()
    weights = {**facts["fingerprint"]["weights"], "model.lm_head": "another"}
    other = {**facts["fingerprint"], "weights": weights}
    run.write_prepared({**facts, "fingerprint": other})
    events = validate(run, job, few)
    [warning] = [event["message"] for event in events if event["event"] == "warning"]
    assert warning.startswith("3 retrainings in ") and "not used" in warning
    records = read_journal(run.retrainings_file)
    assert [record["subset"] for record in records[3:]] == [r["subset"] for r in records[:3]]
    assert len({record["made_from"] for record in records}) == 2
    assert table(run) == first
    run.write_prepared(facts)
    validate(run, job, few)
    assert len(read_journal(run.retrainings_file)) == len(records)


def test_the_table_of_predictions_and_retrainings(run: RunFolder, job: PreparedRun) -> None:
    events = validate(run, job)
    lines = table(run)
    kinds = [line["kind"] for line in lines]
    assert kinds == ["drop 0.3"] * 6 + ["leave-one-out"] * 2 + ["drop-top 2"] * 4
    full = phi(run, job, [1.0] * 7)
    for line in lines:
        query, left_out = int(line["query"]), documents_of(run, line["subset"])
        assert len(left_out) == int(line["documents"])
        assert float(line["full"]) == full[query]
        expected = full[query] - scores(run)[query, left_out].sum()
        assert float(line["predicted"]) == pytest.approx(expected, rel=1e-12)
        weights = np.ones(7)
        weights[left_out] = 0.0
        assert float(line["actual"]) == phi(run, job, weights)[query]
    phases = [event for event in events if event["event"] == "phase"]
    assert [(p["phase"], p["total"], p["attribution"]) for p in phases] == [
        ("retrain", 36, "a0001")
    ]
    done = [event["done"] for event in events if event["event"] == "retrained"]
    assert done == [6, 12, 18, 24, 30, 36]


def documents_of(run: RunFolder, subset: str) -> list[int]:
    records = read_journal(run.retrainings_file)
    return next(r["documents"] for r in records if r["subset"] == subset)


def test_same_bits_in_any_number_of_processes(run: RunFolder, job: PreparedRun) -> None:
    validate(run, job)
    first = (run.attributions / "a0001" / "validation.csv").read_bytes()
    run.retrainings_file.unlink()
    validate(run, job, SMALL.model_copy(update={"jobs": 2}))
    again = (run.attributions / "a0001" / "validation.csv").read_bytes()
    assert sorted(again.splitlines()) == sorted(first.splitlines())


def test_an_interrupted_validation_continues(
    run: RunFolder, job: PreparedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate(run, job)
    whole = (run.attributions / "a0001" / "validation.csv").read_bytes()
    run.retrainings_file.unlink()
    done: list[str] = []

    class Interrupted(Retrainer):
        def __call__(self, task: Any, *rest: Any) -> Any:
            if len(done) == 4:
                raise StoppedError("stopped")
            done.append(task[0].name)
            return super().__call__(task, *rest)

    monkeypatch.setattr(validate_module, "Retrainer", Interrupted)
    with pytest.raises(StoppedError):
        validate(run, job)
    # An interruption may leave part of a line in either file.
    file = run.attributions / "a0001" / "validation.csv"
    file.write_bytes(file.read_bytes()[:-7])
    run.retrainings_file.write_bytes(run.retrainings_file.read_bytes() + b'{"seq":4,')
    monkeypatch.setattr(validate_module, "Retrainer", Retrainer)
    events = validate(run, job)
    assert done[0] == NOTHING.name
    assert file.read_bytes() == whole
    (resumed,) = (event for event in events if event["event"] == "resumed")
    assert (resumed["phase"], resumed["done"]) == ("retrain", 18)
    assert sum(event["event"] == "retrained" for event in events) == 3


def test_subsets_are_added_and_none_is_retrained_twice(run: RunFolder, job: PreparedRun) -> None:
    validate(run, job, ValidationRequest(drop=(0.3, 0.3), count=2))
    assert len(table(run)) == 2 * 2
    events = validate(run, job, ValidationRequest(drop=(0.3, 0.5), count=3))
    assert [e["subset"] for e in events if e["event"] == "retrained"] == [
        "0.3-seed0-2", "0.5-seed0-0", "0.5-seed0-1", "0.5-seed0-2",
    ]  # fmt: skip
    assert len(table(run)) == 2 * 6
    assert not [e for e in validate(run, job, ValidationRequest(drop=(0.3, 0.3), count=3))
                if e["event"] == "retrained"]  # fmt: skip


def test_stored_models_are_measured_again_without_training(
    run: RunFolder, job: PreparedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate(run, job, ValidationRequest(drop=(0.3,), count=2, keep_models=True))
    # An attribution made after the retrainings.
    (run.attributions / "a0001").rename(run.attributions / "a0002")
    trained: list[Subset] = []
    monkeypatch.setattr(
        "engine.evaluation.retraining.retrain",
        lambda *arguments: trained.append(arguments) or pytest.fail("it trained again"),
    )
    recorder = Recorder()
    Validator(run, "a0002", ValidationRequest(drop=(0.3,), count=2), recorder).run(job)
    first, second, *_ = read_journal(run.retrainings_file)[1:]
    later = read_journal(run.retrainings_file)[-2:]
    assert [r["measurements"]["a0002"] for r in later] == [
        r["measurements"]["a0001"] for r in (first, second)
    ]


def test_a_table_of_another_origin_is_renamed(run: RunFolder, job: PreparedRun) -> None:
    file = run.attributions / "a0001" / "validation.csv"
    file.write_text("query,subset,predicted,actual\n0,mine,1.0,2.0\n")
    validate(run, job, ValidationRequest(drop=(0.3,), count=1))
    assert "mine" not in file.read_text()
    assert "mine" in file.with_name("validation.csv.before").read_text()


def test_requests_that_do_not_fit_and_a_damaged_cache(run: RunFolder, job: PreparedRun) -> None:
    with pytest.raises(UsageError, match="drop-top 7"):
        validate(run, job, ValidationRequest(drop=(), drop_top=(7,)))
    with pytest.raises(UsageError, match="no complete attribution 'a0007'"):
        Validator(run, "a0007", SMALL, Recorder())
    validate(run, job, ValidationRequest(drop=(0.3,), count=2))
    lines = run.retrainings_file.read_bytes().replace(b"0.3-seed0-0", b"0.3-seed0-9")
    run.retrainings_file.write_bytes(lines)
    with pytest.raises(RunError, match="remove it to retrain"):
        validate(run, job)


def test_a_diverged_retraining_is_nan(
    run: RunFolder, job: PreparedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.replay.replay import DivergedError

    def diverge(*arguments: Any) -> Any:
        raise DivergedError("loss", 2)

    monkeypatch.setattr("engine.evaluation.retraining.retrain", diverge)
    validate(run, job, ValidationRequest(drop=(0.3,), count=1))
    assert [line["actual"] for line in table(run)] == ["nan", "nan"]


def test_without_a_trajectory_the_full_model_is_retrained(run: RunFolder, job: PreparedRun) -> None:
    import shutil

    shutil.rmtree(run.trajectory)
    validate(run, job, ValidationRequest(drop=(0.3,), count=1))
    full = phi(run, job, [1.0] * 7)
    assert [float(line["full"]) for line in table(run)] == full.tolist()
    assert torch.get_num_threads() == 1
    assert Path(run.retrainings_file).exists()
