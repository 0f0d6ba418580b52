"""Resuming: a later attempt uses exactly what earlier attempts stored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.attribution import replay_runner
from engine.replay.checkpointing import checkpointing_schedule
from engine.runs.errors import RunError, StoppedError
from engine.runs.run_folder import RunFolder
from engine.training.loop import TrainControl
from engine.trajectory import replay_checkpoints
from engine.worker import attempt
from tests.crash.ranks import fingerprint, leftovers

Outcome = dict[str, Any]
Start = Callable[..., Outcome]
Worker = Callable[..., Outcome]
SLOW = pytest.mark.slow


def stop_now(*_: Any) -> None:
    raise StoppedError("stopped by the test")


class StopAt:
    """Returns True at the n-th call, and counts the calls."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def steps_of(folder: RunFolder, event: str) -> list[int]:
    return [e["step"] for e in folder.events() if e["event"] == event]


def stop_training_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    control = TrainControl(StopAt(step + 1), 60.0, resume=True)
    monkeypatch.setattr(attempt, "TrainControl", lambda *_, **__: control)


def stopped_in_replay(
    start: Start, config: dict[str, Any], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> RunFolder:
    """A run r2 that was stopped after it had saved its replay once."""
    monkeypatch.setenv("MAGIC_SAVE_SECONDS", "0")
    saved = replay_checkpoints.ReplayCheckpoints.save
    with monkeypatch.context() as patch:

        def save_and_stop(self: Any, state: Any) -> int:
            saved(self, state)
            raise StoppedError("stopped by the test")

        patch.setattr(replay_checkpoints.ReplayCheckpoints, "save", save_and_stop)
        assert start(config, "r2")["ending"] == "stopped"
    return RunFolder(runs / "r2")


@pytest.mark.parametrize(
    "schedule", ["sqrt", *(pytest.param(n, marks=SLOW) for n in ("all", "gradients", "log"))]
)
def test_training_resumes(
    config: dict[str, Any], start: Start, worker: Worker, runs: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, schedule: str,
) -> None:  # fmt: skip
    config = {**config, "trajectory": {"checkpointing": schedule}}
    whole = RunFolder(Path(start(config, "r1")["path"]))
    with monkeypatch.context() as patch:
        stop_training_at(patch, 4)
        stopped = start(config, "r2")
    assert stopped["ending"] == "stopped" and stopped["exit_code"] == 130
    folder = RunFolder(runs / "r2")
    assert steps_of(folder, "train_step") == [0, 1, 2, 3]
    assert worker("resume", "--run", folder.path)["ok"]
    assert steps_of(folder, "train_step") == [0, 1, 2, 3, 4, 5]
    assert [e["saved"] for e in folder.events() if e["event"] == "interrupted"] == [True]
    ours, theirs = fingerprint(folder), fingerprint(whole)
    assert {n for n in ours if ours[n] != theirs[n]} == {"attributions/a0001/scores.zarr/zarr.json"}
    assert ours.keys() == theirs.keys() and leftovers(folder) == []


def test_replay_resumes_from_saved_cotangents(
    config: dict[str, Any], start: Start, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(Path(start({**config, "queries": None})["path"]))
    request = json.dumps({"texts": ["the cat", "a dog ran"]})
    assert worker("attribute", "--run", folder.path, "--request", request)["ok"]
    before = len(steps_of(folder, "replay_step"))
    monkeypatch.setenv("MAGIC_SAVE_SECONDS", "0")
    taken = []

    def after(self: Any, *arguments: Any, **facts: Any) -> None:
        original(self, *arguments, **facts)
        if arguments[0] == "replay_step":
            taken.append(facts["step"])
            if len(taken) == 4:
                raise StoppedError("stopped by the test")

    original = replay_runner.Reporter.__call__
    with monkeypatch.context() as patch:
        patch.setattr(replay_runner.Reporter, "__call__", after)
        stopped = worker("attribute", "--run", folder.path, "--request", request)
    assert stopped["ending"] == "stopped" and taken == [5, 4, 3, 2]
    assert worker("resume", "--run", folder.path)["ok"]
    # The step at which it was stopped had not been saved; the one before it had.
    assert steps_of(folder, "replay_step")[before:] == [5, 4, 3, 2, 2, 1, 0]
    [resumed] = [e for e in folder.events() if e["event"] == "resumed" and e["phase"] == "replay"]
    assert (resumed["step"], resumed["done"]) == (3, 3)
    files = fingerprint(folder)
    for name, content in files.items():
        if name.startswith("attributions/a0001/"):
            assert files[name.replace("a0001", "a0002")] == content
    assert leftovers(folder) == []


def test_resumed_passes_have_the_same_size(
    config: dict[str, Any], start: Start, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(Path(start({**config, "queries": None})["path"]))
    request = json.dumps({"texts": [f"{number} cats sat" for number in range(16)]})
    monkeypatch.setenv("MAGIC_SAVE_SECONDS", "0")
    with monkeypatch.context() as patch:
        patch.setattr(replay_runner.ReplayRunner, "_stop_or_save", lambda _: (True, True))
        assert (
            worker("attribute", "--run", folder.path, "--request", request)["ending"] == "stopped"
        )
    assert worker("resume", "--run", folder.path)["ok"]
    sizes = [len(e["queries"]) for e in folder.events() if e["event"] == "pass"]
    # The first was begun twice.
    assert sizes == [4, 4, 4, 4, 4]


def test_damaged_replay_checkpoint_restarts_the_replay(
    config: dict[str, Any], start: Start, worker: Worker, runs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    whole = fingerprint(RunFolder(Path(start(config, "r1")["path"])))
    folder = stopped_in_replay(start, config, runs, monkeypatch)
    [cotangent, *_] = sorted(folder.attributions.rglob("cotangent-*"))
    content = bytearray(cotangent.read_bytes())
    content[-3] ^= 1
    cotangent.write_bytes(content)
    assert worker("resume", "--run", folder.path)["ok"]
    [warning] = [e["message"] for e in folder.events() if e["event"] == "warning"]
    assert f"{cotangent} is damaged" in warning and "begins again" in warning
    ours = fingerprint(folder)
    assert {n for n in ours if ours[n] != whole[n]} == {"attributions/a0001/scores.zarr/zarr.json"}


def test_damaged_last_state_is_rebuilt_before_attribution(
    config: dict[str, Any], start: Start, worker: Worker, runs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    whole = RunFolder(Path(start(config, "r1")["path"]))
    with monkeypatch.context() as patch:
        patch.setattr(attempt, "attribute", stop_now)
        assert start(config, "r2")["ending"] == "stopped"
    folder = RunFolder(runs / "r2")
    for name in ("state-00000006", "gradient-00000004"):
        (folder.trajectory / f"{name}.safetensors").write_bytes(b"damaged")
    assert worker("resume", "--run", folder.path)["ok"]
    warnings = [e["message"] for e in folder.events() if e["event"] == "warning"]
    assert len(warnings) == 2 and "state of step 6" in warnings[0]
    ours, theirs = fingerprint(folder), fingerprint(whole)
    assert {n for n in ours if ours[n] != theirs[n]} == {"attributions/a0001/scores.zarr/zarr.json"}


@pytest.mark.parametrize(
    "place", ["events.jsonl", "replay.jsonl", "stored_queries.parquet", "queries.parquet"]
)
def test_damaged_records_do_not_end_a_run(
    config: dict[str, Any], start: Start, worker: Worker, runs: Path,
    monkeypatch: pytest.MonkeyPatch, place: str,
) -> None:  # fmt: skip
    whole = fingerprint(RunFolder(Path(start(config, "r1")["path"])))
    folder = stopped_in_replay(start, config, runs, monkeypatch)
    [file] = folder.path.rglob(place)
    content = file.read_bytes()
    file.write_bytes(content[:9] + b"#" + content[10:] if place.endswith("l") else b"")
    assert worker("resume", "--run", folder.path)["ok"]
    ours = fingerprint(folder)
    assert {n for n in ours if ours[n] != whole[n]} == {"attributions/a0001/scores.zarr/zarr.json"}
    if place.endswith("jsonl"):
        warnings = [e["message"] for e in folder.events() if e["event"] == "warning"]
        assert len(warnings) == 1 and "is damaged" in warnings[0]


def test_reproduced_survives_a_resume(
    config: dict[str, Any], start: Start, worker: Worker, runs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(replay_runner.ReplayRunner, "_complete", stop_now)
        start(config)
    folder = RunFolder(runs / "r1")
    assert worker("resume", "--run", folder.path)["ok"]
    record = json.loads((folder.attributions / "a0001" / "complete.json").read_text())
    assert record["reproduced"] is True and record["passes"] == 1


def test_other_arithmetic_warns_and_other_device_is_refused(
    config: dict[str, Any], start: Start, worker: Worker, runs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for identifier, key, value in (("r1", "processor", "ABACUS"), ("r2", "device", "cuda")):
        with monkeypatch.context() as patch:
            stop_training_at(patch, 2)
            start(config, identifier)
        folder = RunFolder(runs / identifier)
        folder.write_prepared({**folder.prepared(), key: value})
    assert worker("resume", "--run", runs / "r1")["ok"]
    [warning] = [e["message"] for e in RunFolder(runs / "r1").events() if e["event"] == "warning"]
    assert "ABACUS then" in warning and "scores may differ in rounding" in warning
    refused = worker("resume", "--run", runs / "r2")
    assert refused["exit_code"] == 1 and "began on cuda" in refused["message"]
    flipped = runs / "r1" / "prepared.json"
    flipped.write_text(flipped.read_text().replace('"threads": 1', '"threads": 3'))
    request = json.dumps({"texts": ["the cat"]})
    outcome = worker("attribute", "--run", runs / "r1", "--request", request)
    assert "prepared.json is damaged" in outcome["message"]


def test_a_moved_model_stays_the_same_model(
    config: dict[str, Any], start: Start, worker: Worker, tmp_path: Path
) -> None:
    import shutil

    there, moved = tmp_path / "there", tmp_path / "moved"
    shutil.copytree(config["model"]["path"], there)
    path = start({**config, "model": {**config["model"], "path": str(there)}})["path"]
    there.rename(moved)
    there.symlink_to(moved)
    request = json.dumps({"texts": ["the cat"]})
    assert worker("attribute", "--run", path, "--request", request)["ok"]


def test_invalid_save_seconds_are_refused(
    config: dict[str, Any], start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGIC_SAVE_SECONDS", "nan")
    outcome = start(config)
    assert outcome["exit_code"] == 2 and "MAGIC_SAVE_SECONDS is 'nan'" in outcome["message"]


def test_changed_queries_do_not_reach_an_interrupted_run(
    config: dict[str, Any], start: Start, worker: Worker, runs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        stop_training_at(patch, 2)
        start(config)
    for file in ("train", "queries"):
        Path(config["data"]["path"]).with_name(f"{file}.jsonl").unlink()
    assert worker("resume", "--run", runs / "r1")["ok"]


def test_trainer_refuses_an_existing_trajectory(tmp_path: Path) -> None:
    import torchopt

    from engine import DataStream, Trainer

    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor([0.5, 1.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x @ self.w - 1.0) ** 2

    stream = DataStream([{"x": torch.tensor([float(i), 1.0])} for i in range(8)], 2)
    trainer, state = Trainer.initialize(Line(), torchopt.sgd(0.01))
    schedule = checkpointing_schedule("sqrt", 4)
    with pytest.raises(StoppedError):
        trainer.train(
            state,
            stream,
            save_dir=tmp_path,
            checkpointing=schedule,
            control=TrainControl(StopAt(3)),
        )
    with pytest.raises(RunError, match="already holds a trajectory"):
        trainer.train(state, stream, save_dir=tmp_path, checkpointing=schedule)
    resumed = trainer.train(state, stream, save_dir=tmp_path, control=TrainControl(resume=True))
    whole = trainer.train(state, stream, save_dir=tmp_path / "b", checkpointing=schedule)
    assert torch.equal(resumed.params["w"], whole.params["w"])
    with pytest.raises(RunError, match="checkpointing sqrt; give another folder"):
        trainer.train(
            state,
            stream,
            save_dir=tmp_path,
            checkpointing=checkpointing_schedule("all", 4),
            control=TrainControl(resume=True),
        )
