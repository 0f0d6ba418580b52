"""The losses of texts token by token, and the texts of query data."""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from engine.attribution.prepare import restore_run
from engine.runs.run_folder import RunFolder

Outcome = dict[str, Any]
Worker = Callable[..., Outcome]
Start = Callable[..., Outcome]
TEXT = "the cat sat by the fire"


def ask(worker: Worker, folder: Path, **request: Any) -> Outcome:
    return worker("losses", "--run", folder, "--request", json.dumps(request))


def by_the_model(folder: Path, ids: list[int]) -> list[float]:
    """What transformers' own forward gives at the end of the trajectory."""
    job = restore_run(RunFolder(folder), torch.device("cpu"))
    reader = job.trainer.open(folder / "trajectory")
    loss = job.model.loss
    state = reader.load_state(reader.schedule.steps).params
    loss.load_state_dict(state, strict=False)
    with torch.no_grad():
        logits = loss.model.eval()(torch.tensor([ids])).logits[0, :-1]
    return F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none").tolist()


def test_losses_are_those_of_the_trained_model(
    config: dict[str, Any], start: Start, worker: Worker
) -> None:
    run = Path(start(config)["path"])
    files = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    outcome = ask(worker, run, texts=[TEXT, "the sea"])
    assert outcome["ok"], outcome
    first, second = outcome["queries"]
    assert (first["text"], second["text"]) == (TEXT, "the sea")
    tokens = first["tokens"]
    expected = by_the_model(run, [token["id"] for token in tokens])
    assert tokens[0]["loss"] is None
    assert [t["loss"] for t in tokens[1:]] == pytest.approx(expected, rel=1e-5)
    assert first["loss"] == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    measured = [e for e in RunFolder(run).events() if e["event"] == "measured"]
    assert [q["loss"] for q in outcome["queries"]] == pytest.approx(
        [event["loss_after"] for event in measured], rel=1e-5
    )
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == files


def test_only_the_text_after_a_prompt_counts(
    config: dict[str, Any], start: Start, worker: Worker
) -> None:
    run = Path(start(config)["path"])
    whole = ask(worker, run, texts=[TEXT])["queries"][0]
    request = {"texts": ["the fire", TEXT], "prompts": ["the cat sat by ", ""]}
    cut, plain = ask(worker, run, **request)["queries"]
    assert plain == whole
    assert cut["text"] == TEXT
    before = [token["loss"] for token in cut["tokens"]].index(cut["tokens"][-1]["loss"])
    losses = [token["loss"] for token in cut["tokens"] if token["loss"] is not None]
    assert 0 < len(losses) < before
    # Fewer rows of the head are multiplied together, which rounds otherwise on some processors.
    of_whole = [token["loss"] for token in whole["tokens"]][-len(losses) :]
    assert losses == pytest.approx(of_whole, rel=1e-6)
    outcome = worker("attribute", "--run", run, "--request", json.dumps(request))
    assert outcome["ok"], outcome
    measured = [e for e in RunFolder(run).events() if e["event"] == "measured"][-2:]
    assert [e["loss_after"] for e in measured] == pytest.approx([cut["loss"], whole["loss"]])


def test_losses_while_another_worker_holds_the_run(
    config: dict[str, Any], start: Start, worker: Worker
) -> None:
    run = Path(start(config)["path"])
    descriptor = os.open(run, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        assert ask(worker, run, texts=[TEXT])["ok"]
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"texts": ["  "]}, "a text is empty"),
        ({"texts": ["a"]}, "1 of a single token (text 1)"),
        ({"texts": ["a b"], "prompts": []}, "prompts need texts"),
        ({"queries": {"path": "/nowhere/q.jsonl"}}, "no file or folder at"),
    ],
)
def test_bad_requests(
    config: dict[str, Any], start: Start, worker: Worker, request_: Outcome, sentence: str
) -> None:
    outcome = ask(worker, Path(start(config)["path"]), **request_)
    assert outcome["exit_code"] == 2 and sentence in outcome["message"]


def test_a_run_without_a_trajectory(config: dict[str, Any], start: Start, worker: Worker) -> None:
    run = Path(start(config)["path"])
    for file in (run / "trajectory").iterdir():
        file.unlink()
    outcome = ask(worker, run, texts=[TEXT])
    assert outcome["exit_code"] == 1 and "no complete trajectory" in outcome["message"]


def test_texts_of_a_source(tmp_path: Path, worker: Worker) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text("".join(json.dumps({"q": f"ask {n}", "a": f"say {n}"}) + "\n" for n in (1, 2)))
    source = {"path": str(file), "prompt_column": "q", "completion_column": "a"}
    outcome = worker("texts", "--source", json.dumps(source), "--first", 1)
    assert (outcome["documents"], outcome["prompts"]) == (2, ["ask 1"])
    assert outcome["texts"] == ["say 1"]
    plain = worker("texts", "--source", json.dumps({"path": str(file), "text_column": "a"}))
    assert (plain["prompts"], plain["texts"]) == (None, ["say 1", "say 2"])
    missing = worker("texts", "--source", json.dumps({"path": str(file)}))
    assert missing["exit_code"] == 2 and "no column 'text'" in missing["message"]
    assert "path: Field required" in worker("texts", "--source", "{}")["message"]
