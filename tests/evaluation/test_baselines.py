"""Other methods on the same documents and queries."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.attribution.prepared_run import PreparedRun
from engine.evaluation.baselines import scoring
from engine.evaluation.baselines.known import NotApplicableError
from engine.evaluation.retraining import Retrainer
from engine.runs.request import ValidationRequest
from engine.runs.run_folder import RunFolder
from tests.crash.tiny import QUERIES, SENTENCES
from tests.evaluation.test_validating import validate

BASELINES = ValidationRequest(count=0, baselines=True)


def test_cosine_is_that_of_whole_gradients(
    run: RunFolder, job: PreparedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "METHODS", {"cosine": scoring.METHODS["cosine"]})
    validate(run, job, BASELINES)
    found = np.load(run.attributions / "a0001" / "baselines" / "cosine.npy")
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
        assert found[query] == pytest.approx(expected, rel=1e-9)


def test_bm25_prefers_the_words_of_the_query(
    run: RunFolder, job: PreparedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bm25s")
    monkeypatch.setattr(scoring, "METHODS", {"bm25": scoring.METHODS["bm25"]})
    validate(run, job, BASELINES)
    found = np.load(run.attributions / "a0001" / "baselines" / "bm25.npy")
    assert found.shape == (2, 7) and (found <= 0).all()
    # Sat and fire, then cat and fire; of the sea one tells twice.
    assert set(np.argsort(found[0])[:3]) == {0, 2, 4}
    assert set(np.argsort(found[1])[:2]) == {5, 6}


def test_what_cannot_serve_is_said_and_the_rest_goes_on(
    run: RunFolder, job: PreparedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_texts(known: object) -> None:
        raise NotApplicableError("the documents are not texts")

    def missing(known: object) -> None:
        raise ImportError("no", name="kronfluence")

    methods = {"first": no_texts, "second": missing, "cosine": scoring.METHODS["cosine"]}
    monkeypatch.setattr(scoring, "METHODS", methods)
    events = validate(run, job, BASELINES)
    said = [event["message"] for event in events if event["event"] == "warning"]
    assert "first: the documents are not texts" in said[0]
    assert "kronfluence is not installed; the README says how" in said[1]
    files = {file.name for file in (run.attributions / "a0001" / "baselines").iterdir()}
    assert files == {"cosine.npy", "digests.json"}


@pytest.mark.parametrize(("method", "library"), [("trak", "trak"), ("ekfac", "kronfluence")])
def test_influence_by_libraries_finds_the_text_itself(
    run: RunFolder, job: PreparedRun, method: str, library: str
) -> None:
    pytest.importorskip(library)
    known = scoring.known_of(run, run.attributions / "a0001", job, Retrainer(run, job, False))
    # The training documents themselves as queries: each helps its own loss most.
    asked = [[known.batch(document)] for document in range(job.documents)]
    found = scoring.METHODS[method](replace(known, measurements=asked))
    assert found.shape == (7, 7) and (found.diagonal() < 0).all()
    others = found[~np.eye(7, dtype=bool)]
    assert found.diagonal().mean() < others.mean() - others.std()
