"""Baselines: gradient cosine, BM25, TRAK and EK-FAC."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.attribution.prepared_run import PreparedRun
from engine.evaluation.baselines import scoring
from engine.evaluation.baselines.trained_run import NotApplicableError
from engine.evaluation.retraining import Retrainer
from engine.runs.request import ValidationRequest
from engine.runs.run_folder import RunFolder
from tests.crash.tiny import QUERIES, SENTENCES
from tests.evaluation.test_validating import validate

BASELINES = ValidationRequest(count=0, baselines=True)


def test_cosine_of_whole_gradients(
    run: RunFolder, job: PreparedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "METHODS", {"cosine": scoring.METHODS["cosine"]})
    validate(run, job, BASELINES)
    scores = np.load(run.attributions / "a0001" / "baselines" / "cosine.npy")
    final = job.trainer.open(run.trajectory).load_state(len(job.order)).params
    module, tokenizer = job.model.loss, job.model.tokenizer

    def gradient(text: str) -> torch.Tensor:
        ids = torch.tensor([tokenizer(text).input_ids])
        leaves = {name: value.clone().requires_grad_() for name, value in final.items()}
        inputs = {
            "input_ids": ids, "labels": ids, "num_items_in_batch": ids.numel() - 1,
            "example_weight": torch.ones(1, dtype=torch.float64),
        }  # fmt: skip
        loss = torch.func.functional_call(module, leaves, (), inputs)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*leaves.values()])])

    for query, text in enumerate(QUERIES):
        expected = [
            -torch.cosine_similarity(gradient(text), gradient(sentence), dim=0).item()
            for sentence in SENTENCES
        ]
        assert scores[query] == pytest.approx(expected, rel=1e-9)


def test_bm25_prefers_the_words_of_the_query(
    run: RunFolder, job: PreparedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bm25s")
    monkeypatch.setattr(scoring, "METHODS", {"bm25": scoring.METHODS["bm25"]})
    validate(run, job, BASELINES)
    scores = np.load(run.attributions / "a0001" / "baselines" / "bm25.npy")
    assert scores.shape == (2, 7) and (scores <= 0).all()
    # Documents with sat, cat or fire; then the two with sea.
    assert set(np.argsort(scores[0])[:3]) == {0, 2, 4}
    assert set(np.argsort(scores[1])[:2]) == {5, 6}


def test_a_method_that_fails_is_reported_and_the_others_run(
    run: RunFolder, job: PreparedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_texts(run: object) -> None:
        raise NotApplicableError("the documents are not texts")

    def missing(run: object) -> None:
        raise ImportError("no", name="kronfluence")

    methods = {"first": no_texts, "second": missing, "cosine": scoring.METHODS["cosine"]}
    monkeypatch.setattr(scoring, "METHODS", methods)
    events = validate(run, job, BASELINES)
    said = [event["message"] for event in events if event["event"] == "warning"]
    assert "first: the documents are not texts" in said[0]
    assert "kronfluence is not installed; see --baselines" in said[1]
    files = {file.name for file in (run.attributions / "a0001" / "baselines").iterdir()}
    assert files == {"cosine.npy", "digests.json"}


@pytest.mark.parametrize(("method", "library"), [("trak", "trak"), ("ekfac", "kronfluence")])
def test_a_document_is_most_helpful_to_itself(
    run: RunFolder, job: PreparedRun, method: str, library: str
) -> None:
    pytest.importorskip(library)
    trained = scoring.trained_run(run, run.attributions / "a0001", job, Retrainer(run, job, False))
    # With the training documents as queries, each is the most helpful for its own loss.
    batches = [[trained.batch(document)] for document in range(job.documents)]
    scores = scoring.METHODS[method](replace(trained, measurements=batches))
    assert scores.shape == (7, 7) and (scores.diagonal() < 0).all()
    others = scores[~np.eye(7, dtype=bool)]
    assert scores.diagonal().mean() < others.mean() - others.std()
