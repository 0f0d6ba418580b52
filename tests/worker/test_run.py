"""A run from config to scores, and new queries of its trajectory."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreReader
from engine.runs.states import RunState
from engine.runs.tables import RowTable
from engine.worker.export import _save
from tests.crash.ranks import current_job

Outcome = dict[str, Any]
Start = Callable[..., Outcome]


def reader_of(outcome: Outcome) -> ScoreReader:
    return ScoreReader(Path(outcome["path"]) / "attributions" / outcome["attribution"])


def token_scores(outcome: Outcome) -> Any:
    reader = reader_of(outcome)
    return np.stack([reader.token_scores(query) for query in range(reader.queries)])


def test_run_folder(config: dict[str, Any], start: Start) -> None:
    outcome = start(config)
    assert outcome["ok"], outcome
    folder = RunFolder(Path(outcome["path"]))
    assert current_job(folder)[1] is RunState.SUCCEEDED
    assert folder.config().digest() == folder.record()["config_hash"]
    assert folder.tokenizer_file.exists()

    rows, reader = RowTable(folder.rows_store), reader_of(outcome)
    documents = rows.document_ids()
    scores = token_scores(outcome)
    assert scores.dtype == np.float32 and scores.shape == (2, *documents.shape)
    assert (scores[:, documents < 0] == 0).all() and (scores[..., -1] == 0).all()
    assert np.array_equal(scores != 0, np.broadcast_to(rows.targets(), scores.shape))
    for query in range(2):
        sums = np.bincount(documents[documents >= 0], scores[query][documents >= 0])
        stored = reader.document_scores(query)
        assert np.allclose(stored, sums, rtol=1e-5)
        assert np.isclose(reader.step_scores(query).sum(), sums.sum(), rtol=1e-4)
        assert reader.top_documents(query).tolist() == np.argsort(stored, kind="stable").tolist()
        assert reader.top_documents(query, harmful=True)[0] == stored.argmax()

    queries = pq.ParquetFile(reader.attribution / "queries.parquet").read().to_pydict()
    assert queries["text"] == ["the cat sat by the fire", "the sea"]
    assert queries["length"] == [23, 7]
    assert all(a < b for a, b in zip(queries["loss_after"], queries["loss_before"], strict=True))
    assert pq.ParquetFile(folder.documents_file).read()["id"].to_pylist() == list(range(7))
    assert np.array_equal(np.sort(rows.steps(), axis=0)[[0, -1]], [[0, 3], [2, 5]])


def test_events_of_a_whole_run(config: dict[str, Any], start: Start) -> None:
    events = RunFolder(Path(start(config)["path"])).events()
    assert [event["seq"] for event in events] == list(range(len(events)))
    phases = [event["phase"] for event in events if event["event"] == "phase"]
    assert phases == ["prepare", "train", "measure", "replay"]
    trained = [event for event in events if event["event"] == "train_step"]
    assert [event["step"] for event in trained] == list(range(6))
    assert all(event["learning_rate"] == 1e-2 and event["memory"] > 0 for event in trained)
    replayed = [event for event in events if event["event"] == "replay_step"]
    assert [event["step"] for event in replayed] == [5, 4, 3, 2, 1, 0]
    assert all(len(event["cotangent_norms"]) == 2 for event in replayed)
    assert [e["exact"] for e in events if e["event"] == "reproduced"] == [True]
    assert events[-1]["event"] == "finished"


def test_schedules_give_the_same_bits(config: dict[str, Any], start: Start) -> None:
    results = {}
    for kind in ("all", "gradients", "sqrt", "log"):
        results[kind] = token_scores(start({**config, "trajectory": {"checkpointing": kind}}, kind))
    assert all(np.array_equal(scores, results["all"]) for scores in results.values())


def test_attribute_replays_without_training(
    config: dict[str, Any], start: Start, worker: Callable[..., Outcome]
) -> None:
    first = start(config)
    folder = RunFolder(Path(first["path"]))
    before = {path: path.stat().st_mtime_ns for path in folder.trajectory.iterdir()}
    seen = len(folder.events())
    request = json.dumps({"texts": ["the cat sat by the fire"]})
    second = worker("attribute", "--run", folder.path, "--request", request)
    assert second["attribution"] == "a0002"
    assert np.array_equal(token_scores(second)[0], token_scores(first)[0])
    assert {path: path.stat().st_mtime_ns for path in folder.trajectory.iterdir()} == before
    new = {event["event"] for event in folder.events()[seen:]}
    assert "replay_step" in new and "train_step" not in new


def test_passes_when_memory_is_short(config: dict[str, Any], start: Start) -> None:
    whole = token_scores(start(config))
    short = {**config, "attribution": {"memory_budget_gb": 1e-6}}
    outcome = start(short, "short")
    passes = [e for e in RunFolder(Path(outcome["path"])).events() if e["event"] == "pass"]
    assert [event["queries"] for event in passes] == [[0], [1]]
    assert np.array_equal(token_scores(outcome), whole)


@pytest.mark.parametrize(
    ("changed", "together"),
    [
        ({}, [3, 3, 2]),
        ({"attribution": {"memory_budget_gb": 8.0}}, [8]),
        # Every pass of these trains again.
        ({"trajectory": {"checkpointing": "sqrt"}}, [8]),
    ],
)
def test_queries_per_pass_are_limited_to_those_that_save_time(
    config: dict[str, Any], start: Start, worker: Callable[..., Outcome],
    changed: dict[str, Any], together: list[int],
) -> None:  # fmt: skip
    run = start({**config, "queries": None, **changed})
    words = ["cat", "dog", "fire", "sun", "moon", "sea", "tree", "bird"]
    texts = [f"the {word} sat by the fire" for word in words]
    outcome = worker("attribute", "--run", run["path"], "--request", json.dumps({"texts": texts}))
    events = RunFolder(Path(run["path"])).events()
    assert [len(e["queries"]) for e in events if e["event"] == "pass"] == together
    alone = json.dumps({"texts": texts[4:5]})
    expected = token_scores(worker("attribute", "--run", run["path"], "--request", alone))
    assert np.array_equal(token_scores(outcome)[4], expected[0])


def test_memory_for_the_trajectory_changes_no_bit(config: dict[str, Any], start: Start) -> None:
    attribution, results = {"memory_budget_gb": 1e-6}, []
    for name, memory_gb in (("share", None), ("little", 1e-4), ("none", 0)):
        trajectory = {**config["trajectory"], "memory_gb": memory_gb}
        outcome = start({**config, "attribution": attribution, "trajectory": trajectory}, name)
        results.append(token_scores(outcome))
        steps = [
            e for e in RunFolder(Path(outcome["path"])).events() if e["event"] == "replay_step"
        ]
        assert steps and all(event["waited"] >= 0 for event in steps)
    assert all(np.array_equal(scores, results[0]) for scores in results)


def test_document_granularity(config: dict[str, Any], start: Start) -> None:
    tokens = reader_of(start(config))
    documents = reader_of(start({**config, "attribution": {"granularity": "document"}}, "d"))
    assert not documents.has_tokens
    for query in range(2):
        ours, theirs = documents.document_scores(query), tokens.document_scores(query)
        assert np.allclose(ours, theirs, rtol=1e-5, atol=1e-9)


def test_reductions_and_contrast(config: dict[str, Any], start: Start) -> None:
    each = token_scores(start(config)).astype(np.float64)
    for reduction, expected in (("sum", each.sum(0)), ("mean", each.mean(0))):
        queries = {**config["queries"], "reduction": reduction}
        results = token_scores(start({**config, "queries": queries}, reduction))
        assert results.shape[0] == 1
        assert np.allclose(results[0], expected, rtol=1e-3, atol=1e-7)
    contrast = {"path": config["queries"]["path"], "split": "train[1:]"}
    queries = {"path": config["queries"]["path"], "split": "train[:1]"}
    queries |= {"reduction": "mean", "contrast": contrast}
    results = token_scores(start({**config, "queries": queries}, "contrast"))
    assert np.allclose(results[0], each[0] - each[1], rtol=1e-3, atol=1e-7)


def test_training_alone_and_queries_later(
    config: dict[str, Any], start: Start, worker: Callable[..., Outcome]
) -> None:
    outcome = start({**config, "queries": None})
    assert outcome["attribution"] is None
    request = json.dumps({"queries": config["queries"], "reduction": "mean"})
    later = worker("attribute", "--run", outcome["path"], "--request", request)
    assert later["attribution"] == "a0001" and reader_of(later).queries == 1


@pytest.mark.parametrize("packing", [False, True])
def test_export(
    config: dict[str, Any], start: Start, worker: Callable[..., Outcome], tmp_path: Path,
    packing: bool,
) -> None:  # fmt: skip
    config["data"] |= {"packing": packing, "sequence_length": 8 if packing else 32}
    outcome = start(config)
    reader = reader_of(outcome)
    arguments = ("--run", outcome["path"], "--attribution", "a0001", "--out", tmp_path / "out")
    assert worker("export", *arguments)["ok"]
    doc_ids, layout = (torch.load(tmp_path / "out" / f"{n}.pt") for n in ("doc_ids", "layout"))
    assert doc_ids.min() == 0 and layout.min() == -1
    for query in range(2):
        scores = torch.load(tmp_path / "out" / f"query-{query}" / "scores.pt")
        per_doc = torch.zeros(7)
        per_doc.scatter_add_(0, doc_ids.flatten(), scores.flatten())
        expected = torch.from_numpy(reader.document_scores(query))
        assert torch.allclose(per_doc, expected, rtol=1e-4, atol=1e-7)
        grid = torch.zeros(layout.shape)
        grid[layout >= 0] = scores
        assert torch.equal(grid, torch.from_numpy(reader.token_scores(query)))
        # Padding counts for no document, and not for the first either.
        assert (doc_ids == 0).sum() == (layout == 0).sum()
    assert (tmp_path / "out" / "run_config.yaml").read_bytes() == (
        Path(outcome["path"]) / "run_config.yaml"
    ).read_bytes()


def test_an_export_by_document(
    config: dict[str, Any], start: Start, worker: Callable[..., Outcome], tmp_path: Path
) -> None:
    config["attribution"] = {**config.get("attribution", {}), "granularity": "document"}
    outcome = start(config)
    reader, out = reader_of(outcome), tmp_path / "deep" / "out"
    arguments = ("--run", outcome["path"], "--attribution", "a0001", "--out", out)
    assert worker("export", *arguments)["ok"]
    doc_ids = torch.load(out / "doc_ids.pt")
    for query in range(2):
        scores = torch.load(out / f"query-{query}" / "scores.pt")
        per_doc = torch.zeros(7)
        per_doc.scatter_add_(0, doc_ids.flatten(), scores.flatten())
        assert torch.equal(per_doc, torch.from_numpy(reader.document_scores(query)))
    # Run the lines of README.txt.
    text = (out / "README.txt").read_text()
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    code = "\n".join(lines).replace('load("', f'load("{out}/')
    names: dict[str, Any] = {}
    exec(code, names)
    assert torch.equal(names["per_doc"], torch.from_numpy(reader.document_scores(0)))


@pytest.mark.parametrize("count", [2, 10**6])
def test_full_disk_during_torch_save_is_reported(count: int) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        _save(torch.zeros(count), Path("/dev/full"))


def test_plan_writes_nothing(
    config: dict[str, Any], worker: Callable[..., Outcome], tmp_path: Path, runs: Path
) -> None:
    import yaml

    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    plan = worker("plan", "--config", file, "--runs", runs)
    assert not runs.exists()
    assert (plan["steps"], plan["rows"], plan["documents"], plan["queries"]) == (6, 7, 7, 2)
    disk = {option["name"]: option["disk_bytes"] for option in plan["schedules"]}
    assert disk["all"] > disk["gradients"] > disk["sqrt"] > disk["log"] > 0
    assert plan["chosen"] in disk and plan["reason"]


@pytest.mark.parametrize(
    ("epochs", "why"), [(2, "with so few steps"), (3, "within 5 % of the fastest")]
)
def test_auto_checkpointing_gives_a_reason(
    epochs: int, why: str, config: dict[str, Any], start: Start
) -> None:
    training = {**config["training"], "epochs": epochs}
    changed = {**config, "training": training, "trajectory": {"checkpointing": "auto"}}
    folder = RunFolder(Path(start(changed)["path"]))
    [planned] = [event for event in folder.events() if event["event"] == "planned"]
    assert planned["checkpointing"] == folder.prepared()["checkpointing"]
    assert why in planned["reason"] and planned["checkpoints"][-1] == 3 * epochs
    # Measuring takes some steps too: of so few the memory is not predicted.
    assert (planned["memory"] is None) == (epochs == 2)
    assert (planned["memory"] or 10**9) > 10**8 and planned["host_memory"] is None
