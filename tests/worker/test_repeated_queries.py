"""Queries that repeat an earlier one exactly share its replay."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.attribution.queries import Queries
from engine.evaluation.trust import read_trust
from engine.runs.checksummed import read_record
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreReader
from engine.scores.attribution import open_attribution

Outcome = dict[str, Any]
Worker = Callable[..., Outcome]
TEXTS = ["the cat sat", "the sea", "a dog", "the cat sat", "the sea", "the sea and the dog"]


def ask(worker: Worker, run: Path, **request: Any) -> Path:
    outcome = worker("attribute", "--run", run, "--request", json.dumps(request))
    assert outcome["ok"], outcome["message"]
    return run / "attributions" / outcome["attribution"]


def scores(attribution: Path) -> list[Any]:
    reader = ScoreReader(attribution)
    tokens = [reader.token_scores] if reader.has_tokens else []
    readers = (*tokens, reader.document_scores, reader.step_scores)
    return [read(query) for query in range(reader.queries) for read in readers]


def replayed(run: Path) -> list[int]:
    events = RunFolder(run).events()
    last = max(i for i, e in enumerate(events) if e.get("phase") == "replay")
    passes = [event["queries"] for event in events[last:] if event["event"] == "pass"]
    return [query for queries in passes for query in queries]


@pytest.mark.parametrize(("granularity", "budget"), [("token", None), ("document", 1e-9)])
def test_repeats_share_a_replay_bit_for_bit(
    config: dict[str, Any],
    start: Callable[..., Outcome],
    worker: Worker,
    granularity: str,
    budget: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config["attribution"] = {"memory_budget_gb": budget}
    run = Path(start(config)["path"])
    request = {"texts": TEXTS, "granularity": granularity}
    shared = ask(worker, run, **request)
    assert replayed(run) == [0, 1, 2, 5]
    record = read_record(shared / "complete.json") or {}
    assert record["replayed"] == [0, 1, 2, 0, 1, 5]
    # The dashboard shows the cotangent norms of the replay that a query shares.
    norms = read_trust(open_attribution(RunFolder(run))).numerics.norms
    assert sorted(norms) == list(range(6)) and norms[3] == norms[0] != norms[1]
    with monkeypatch.context() as patch:
        patch.setattr(Queries, "replayed", property(lambda q: list(range(q.measurements))))
        each = ask(worker, run, **request)
    assert replayed(run) == list(range(6))
    assert all(map(np.array_equal, scores(shared), scores(each)))
    other = read_record(each / "complete.json") or {}
    assert other["rounding"] == record["rounding"] and "replayed" not in other


def test_same_text_after_another_prompt_is_no_repeat(
    config: dict[str, Any], start: Callable[..., Outcome], worker: Worker
) -> None:
    run = Path(start(config)["path"])
    prompts = ["the sea", "a dog", "the sea"]
    ask(worker, run, texts=[" sat", " sat", " sat"], prompts=prompts)
    assert replayed(run) == [0, 1]
