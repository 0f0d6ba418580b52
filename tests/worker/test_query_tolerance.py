"""Queries asked with a tolerance: fewer replays, and scores put together from them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.attribution import attribute as attributing
from engine.runs.config import RunConfig
from engine.runs.errors import StoppedError
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreReader
from engine.trajectory import replay_checkpoints as replay_saves
from tests.crash.ranks import leftovers
from tests.crash.tiny import SENTENCES

Outcome = dict[str, Any]
Start = Callable[..., Outcome]
Worker = Callable[..., Outcome]
ASKED = [
    "the cat sat by the fire",
    "the sea",
    "a dog",
    "the cat sat by the fire",
    "the sea",
    "cold wind",
]
"""Six queries of which two are repeats."""


@pytest.fixture
def exact(config: dict[str, Any], start: Start) -> Path:
    """A float64 run that was asked two queries, each replayed."""
    config["model"]["dtype"] = "float64"
    return Path(start(config)["path"])


def ask(worker: Worker, run: Path, texts: list[str], **options: Any) -> Path:
    outcome = worker(
        "attribute", "--run", run, "--request", json.dumps({"texts": texts, **options})
    )
    assert outcome["ok"], outcome["message"]
    return run / "attributions" / outcome["attribution"]


def scores(attribution: Path) -> list[tuple[Any, ...]]:
    reader = ScoreReader(attribution)
    return [
        (
            *([reader.token_scores(query)] if reader.has_tokens else []),
            reader.document_scores(query),
            reader.step_scores(query),
        )
        for query in range(reader.queries)
    ]


def distances(ours: Path, theirs: Path) -> list[float]:
    """Relative errors of every query's scores: of tokens, documents and steps in turn."""
    return [
        float(np.linalg.norm(a - b) / np.linalg.norm(b))
        for found, wanted in zip(scores(ours), scores(theirs), strict=True)
        for a, b in zip(found, wanted, strict=True)
    ]


def record(attribution: Path) -> dict[str, Any]:
    values = dict(json.loads((attribution / "complete.json").read_text()))
    # The digest of the others, one of which is when it was made.
    del values["sha256"]
    return values


def columns(attribution: Path) -> dict[str, Any]:
    return dict(pq.ParquetFile(attribution / "queries.parquet").read().to_pydict())


def replays(run: Path, attribution: Path) -> int:
    """Cotangents that were carried back for an attribution."""
    events = RunFolder(run).events()
    first = next(
        place
        for place, event in enumerate(events)
        if event["event"] == "phase" and event.get("attribution") == attribution.name
    )
    return sum(len(event["queries"]) for event in events[first:] if event["event"] == "pass")


@pytest.mark.parametrize("granularity", ["token", "document"])
@pytest.mark.parametrize("budget", [None, 1e-9])
def test_without_tolerance_for_loss_repeats_are_spared(
    config: dict[str, Any], start: Start, worker: Worker, granularity: str, budget: float | None
) -> None:
    config["model"]["dtype"] = "float64"
    config["attribution"] = {"granularity": granularity, "memory_budget_gb": budget}
    run = Path(start(config)["path"])
    full = ask(worker, run, ASKED)
    spared = ask(worker, run, ASKED, tolerance=0)
    assert replays(run, spared) == 4
    assert max(distances(spared, full)) <= 1e-9
    assert record(spared)["subspace"]["rank"] == 4
    assert max(columns(spared)["outside"]) < 1e-7
    assert max(columns(spared)["expected_error"]) < 1e-6
    assert leftovers(RunFolder(run)) == []
    events = [e for e in RunFolder(run).events() if e["event"] == "subspace"]
    assert [(e["queries"], e["rank"], e["tolerance"]) for e in events] == [(6, 4, 0.0)]


def test_scores_are_off_by_about_what_is_said(exact: Path, worker: Worker) -> None:
    texts = [f"{one} {other}" for one in SENTENCES[:4] for other in SENTENCES[4:]]
    full, rough = ask(worker, exact, texts), ask(worker, exact, texts, tolerance=0.5)
    found = record(rough)["subspace"]
    assert found["inner_product"] == "euclidean" and found["tolerance"] == 0.5
    assert 1 < found["rank"] < len(texts) and replays(exact, rough) == found["rank"]
    outside, errors = (np.array(columns(rough)[name]) for name in ("outside", "expected_error"))
    assert found["outside"] == outside.max() <= 0.5 and outside.min() > 0
    true = np.array(distances(rough, full)[::3])
    assert 0.5 < np.median(true / errors) < 2 and (true < 1).all()
    # More than the tolerance asked for is left out with a larger one.
    rougher = ask(worker, exact, texts, tolerance=0.9)
    assert record(rougher)["subspace"]["rank"] < found["rank"]
    assert np.median(distances(rougher, full)[::3]) > np.median(true)


def test_queries_that_are_not_alike_are_replayed_themselves(exact: Path, worker: Worker) -> None:
    full, same = ask(worker, exact, ASKED[:3]), ask(worker, exact, ASKED[:3], tolerance=0.01)
    assert distances(same, full) == [0.0] * 9
    assert record(same)["subspace"] == {
        "tolerance": 0.01, "rank": 3, "inner_product": "euclidean", "outside": 0.0,
    }  # fmt: skip
    assert columns(same)["outside"] == columns(same)["expected_error"] == [0.0] * 3


def test_a_tolerance_left_out_changes_nothing(exact: Path, worker: Worker) -> None:
    plain = ask(worker, exact, ASKED)
    assert "subspace" not in record(plain) and "outside" not in columns(plain)
    config = RunFolder(exact).config()
    values = config.model_dump(mode="json")
    assert RunConfig.model_validate(values).digest() == config.digest()
    values["attribution"]["query_tolerance"] = 0.1
    assert RunConfig.model_validate(values).digest() != config.digest()


def test_the_config_sets_it_and_a_request_overrides_it(
    config: dict[str, Any], start: Start, worker: Worker
) -> None:
    config["attribution"] = {"query_tolerance": 0.9}
    run = Path(start(config)["path"])
    assert record(run / "attributions" / "a0001")["subspace"]["tolerance"] == 0.9
    assert record(ask(worker, run, ASKED))["subspace"]["tolerance"] == 0.9
    assert record(ask(worker, run, ASKED, tolerance=0.2))["subspace"]["tolerance"] == 0.2


@pytest.mark.parametrize("tolerance", [-0.1, 1, 2])
def test_what_is_no_share_is_refused(exact: Path, worker: Worker, tolerance: float) -> None:
    request = json.dumps({"texts": ["the"], "tolerance": tolerance})
    failure = worker("attribute", "--run", exact, "--request", request)
    assert failure["exit_code"] == 2 and failure["message"].startswith("tolerance: ")


def test_one_measurement_of_many_documents(exact: Path, worker: Worker) -> None:
    full = ask(worker, exact, ASKED, reduction="mean")
    mean = ask(worker, exact, ASKED, reduction="mean", tolerance=0.5)
    assert distances(mean, full) == [0.0] * 3 and len(columns(mean)["outside"]) == 6


class Interrupted:
    """A run whose second attribution was stopped while its basis was replayed."""

    def __init__(self, run: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self.worker = run, worker
        monkeypatch.setenv("MAGIC_SAVE_SECONDS", "0")
        self.undisturbed = ask(worker, run, ASKED, tolerance=0.6)
        saved = replay_saves.ReplaySaves.save
        with monkeypatch.context() as patch:

            def save_and_stop(self: Any, state: Any) -> int:
                saved(self, state)
                raise StoppedError("stopped by the test")

            patch.setattr(replay_saves.ReplaySaves, "save", save_and_stop)
            request = json.dumps({"texts": ASKED, "tolerance": 0.6})
            assert worker("attribute", "--run", run, "--request", request)["ending"] == "stopped"
        (self.staging,) = (run / "attributions").glob(".*.new")

    def check(self) -> None:
        """It goes on to the same bits as if it had not been stopped."""
        assert self.worker("resume", "--run", self.run)["ok"]
        ours = self.run / "attributions" / self.staging.name[1:-4]
        assert distances(ours, self.undisturbed) == [0.0] * 18
        assert columns(ours) == columns(self.undisturbed)
        found, wanted = record(ours), record(self.undisturbed)
        assert {**found, "created": 0} == {**wanted, "created": 0}
        assert leftovers(RunFolder(self.run)) == []


@pytest.fixture
def interrupted(exact: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Interrupted:
    return Interrupted(exact, worker, monkeypatch)


def resumed(run: Path) -> list[int]:
    return [e["step"] for e in RunFolder(run).events() if e["event"] == "resumed"]


def test_a_stopped_replay_of_a_basis_goes_on(interrupted: Interrupted) -> None:
    interrupted.check()
    assert resumed(interrupted.run) == [5]


@pytest.mark.parametrize("name", ["subspace.json", "subspace.safetensors"])
@pytest.mark.parametrize("harm", ["flip", "cut", "missing"])
def test_a_damaged_basis_is_found_again_and_replayed_from_the_beginning(
    interrupted: Interrupted, name: str, harm: str
) -> None:
    file = interrupted.staging / name
    content = bytearray(file.read_bytes())
    if harm == "missing":
        file.unlink()
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content if harm == "flip" else content[:-9])
    interrupted.check()
    assert resumed(interrupted.run) == []


def test_stopped_between_the_last_replay_and_the_scores(
    exact: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = ask(worker, exact, ASKED, tolerance=0.6)
    with monkeypatch.context() as patch:

        def stop(*_: Any) -> None:
            raise StoppedError("stopped by the test")

        patch.setattr(attributing, "put_together", stop)
        request = json.dumps({"texts": ASKED, "tolerance": 0.6})
        assert worker("attribute", "--run", exact, "--request", request)["ending"] == "stopped"
    count = sum(e["event"] == "pass" for e in RunFolder(exact).events())
    assert worker("resume", "--run", exact)["ok"]
    assert sum(e["event"] == "pass" for e in RunFolder(exact).events()) == count
    ours = exact / "attributions" / "a0003"
    assert distances(ours, undisturbed) == [0.0] * 18
    shutil.rmtree(ours)
    assert leftovers(RunFolder(exact)) == []
