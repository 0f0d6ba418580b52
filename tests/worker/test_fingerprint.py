"""Changed inputs of a run are refused by name, or the run's copy is used."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.attribution import fingerprint
from engine.models.module_tensors import weight_digests
from engine.runs.run_folder import RunFolder
from tests.worker.test_lora import adapted
from tests.worker.test_own_task import OWN, own
from tests.worker.test_resume import stop_training_at
from tests.worker.test_run import reader_of, token_scores

Outcome = dict[str, Any]
Start = Callable[..., Outcome]
Worker = Callable[..., Outcome]
ASKED = json.dumps({"texts": ["the cat sat by the fire", "the sea"]})
AGAIN = "or run the config again as a new run"

# Fixtures of other files.
__all__ = ["adapted", "own"]


def attribute(worker: Worker, run: Outcome) -> Outcome:
    return worker("attribute", "--run", run["path"], "--request", ASKED)


def warnings(run: Outcome) -> list[str]:
    events = RunFolder(Path(run["path"])).events()
    return [event["message"] for event in events if event["event"] == "warning"]


def edit(file: Path, name: str, rows: slice = slice(None)) -> bytes:
    """Change rows of a tensor, keeping the file's size and time; returns what it was."""
    before, times = file.read_bytes(), file.stat()
    tensors = load_file(file)
    tensors[name][rows] += 0.5
    save_file(tensors, file, {"format": "pt"})
    assert file.stat().st_size == len(before)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    return before


def test_a_base_changed_while_paused_is_refused(
    adapted: dict[str, Any], start: Start, worker: Worker, runs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    whole = start(adapted, "whole")
    with monkeypatch.context() as patch:
        stop_training_at(patch, 2)
        assert start(adapted)["ending"] == "stopped"
    file = Path(adapted["model"]["path"]) / "model.safetensors"
    before = edit(file, "transformer.wpe.weight")
    refused = worker("resume", "--run", runs / "r1")
    assert refused["exit_code"] == 2
    assert (
        f"the weights of {file.parent} changed since the run was prepared (" in (refused["message"])
    )
    assert "transformer.wpe.weight, of " in refused["message"] and AGAIN in refused["message"]
    file.write_bytes(before)
    resumed = worker("resume", "--run", runs / "r1")
    assert np.array_equal(token_scores(resumed), token_scores(whole))
    assert not warnings(resumed)


def test_an_embedding_that_the_last_batch_lacks_is_refused(
    adapted: dict[str, Any], start: Start, worker: Worker
) -> None:
    run = start(adapted)
    file = Path(adapted["model"]["path"]) / "model.safetensors"
    # The last step alone, taken again, would not see the first row: no text has that token.
    before = edit(file, "transformer.wte.weight", slice(0, 1))
    assert "transformer.wte.weight" in attribute(worker, run)["message"]
    losses = worker("losses", "--run", run["path"], "--request", ASKED)
    assert losses["exit_code"] == 2 and "transformer.wte.weight" in losses["message"]
    file.write_bytes(before)
    file.touch()
    assert np.array_equal(token_scores(attribute(worker, run)), token_scores(run))


def test_validation_with_changed_weights_leaves_retrainings_alone(
    adapted: dict[str, Any], start: Start, worker: Worker
) -> None:
    model = {"path": adapted["model"]["path"]}
    runs = [start({**adapted, "model": model}, name) for name in ("touched", "untouched")]
    file = Path(model["path"]) / "model.safetensors"
    settings = json.dumps({"drop": [0.3], "count": 2})

    def validate(run: Outcome, jobs: int) -> Outcome:
        request = json.dumps({**json.loads(settings), "jobs": jobs})
        return worker("validate", "--run", run["path"], "--request", request)

    before = edit(file, "transformer.h.0.mlp.c_fc.weight")
    # What is read from the trajectory alone is still exact.
    losses = worker("losses", "--run", runs[0]["path"], "--request", ASKED)
    assert losses["queries"][0]["loss"] > 0
    folder = RunFolder(Path(runs[0]["path"]))
    refused = validate(runs[0], 1)
    assert refused["exit_code"] == 2 and "mlp.c_fc.weight" in refused["message"]
    assert not folder.retrainings_file.exists()
    file.write_bytes(before)
    tables = []
    for run in runs:
        assert validate(run, 1)["ok"]
        tables.append((Path(run["path"]) / "attributions/a0001/validation.csv").read_text())
    assert tables[0] == tables[1]


def test_a_changed_tokenizer_and_config_are_read_from_the_copy(
    adapted: dict[str, Any], start: Start, worker: Worker
) -> None:
    run, model = start(adapted), Path(adapted["model"]["path"])
    file = model / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, *others = [name for name in vocabulary if name != "<|endoftext|>"]
    ids = [vocabulary[name] for name in (*others, first)]
    vocabulary.update(zip((first, *others), ids, strict=True))
    file.write_text(json.dumps(tokenizer))
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"activation_function": "relu"}))
    (model / "added_tokens.json").write_text("{}")
    expected = f"config.json, tokenizer.json, added_tokens.json of {model} changed since the run was prepared; the run's own copy is used"  # noqa: E501
    outcome = attribute(worker, run)
    assert np.array_equal(token_scores(outcome), token_scores(run))
    assert warnings(run) == [expected]
    losses = worker("losses", "--run", run["path"], "--request", ASKED)["queries"]
    measured = [e for e in RunFolder(Path(run["path"])).events() if e["event"] == "measured"]
    assert [q["loss"] for q in losses] == pytest.approx([e["loss_after"] for e in measured[:2]])
    copy = Path(run["path"]) / "made_from" / "model" / "tokenizer.json"
    copy.write_bytes(copy.read_bytes().replace(b"cat", b"cta"))
    refused = attribute(worker, run)
    assert refused["exit_code"] == 2
    assert "the run's copy of tokenizer.json is damaged" in refused["message"]


def test_changed_initial_weights_are_refused(
    config: dict[str, Any], start: Start, worker: Worker, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model = shutil.copytree(config["model"]["path"], tmp_path / "m")
    run = start({**config, "model": {**config["model"], "path": str(model)}})
    shutil.rmtree(model)
    assert np.array_equal(token_scores(attribute(worker, run)), token_scores(run))
    assert "of " + str(model) + " changed since the run was prepared" in warnings(run)[0]
    # As by a version of a library that draws other numbers.
    monkeypatch.setattr(torch, "manual_seed", lambda seed: torch.default_generator.manual_seed(3))
    versions = {**fingerprint.libraries(), "transformers": "9.9"}
    monkeypatch.setattr(fingerprint, "libraries", lambda: versions)
    refused = attribute(worker, run)
    assert refused["exit_code"] == 2
    assert f"the weights that are drawn for {model} from seed 0 changed" in refused["message"]
    assert "9.9 now" in refused["message"]


def test_other_library_versions_are_a_warning(
    config: dict[str, Any], start: Start, worker: Worker
) -> None:
    run = start(config)
    folder = RunFolder(Path(run["path"]))
    facts = folder.prepared()
    versions = {**facts["fingerprint"]["libraries"], "transformers": "5.0"}
    folder.write_prepared({**facts, "fingerprint": {**facts["fingerprint"], "libraries": versions}})
    assert attribute(worker, run)["ok"]
    assert warnings(run)[0].startswith("other versions of libraries than when")
    assert "transformers 5.0 then" in warnings(run)[0]


def test_the_code_of_a_task_is_read_from_the_copy(
    own: dict[str, Any], start: Start, worker: Worker, tmp_path: Path
) -> None:
    text = OWN.replace("SCALE * model", "signs.SIGN * SCALE * model")
    (tmp_path / "heights.py").write_text(f"import signs\n{text}")
    (tmp_path / "signs").mkdir()
    (tmp_path / "signs" / "__init__.py").write_text("from .inner import SIGN\n")
    (tmp_path / "signs" / "inner.py").write_text("SIGN = -1.0\n")
    run = start({**own, "task": f"{tmp_path / 'heights.py'}:Heights"})
    assert run["ok"], run
    folder = RunFolder(Path(run["path"]))
    code = folder.prepared()["fingerprint"]["code"]
    assert set(code) == {"_task_heights", "beside", "signs", "signs.inner"}

    (tmp_path / "beside.py").write_text("SCALE = 70.0\n")
    (tmp_path / "signs" / "inner.py").unlink()
    request = json.dumps({"queries": {"path": str(tmp_path / "asked.jsonl")}})

    def scores(outcome: Outcome) -> Any:
        reader = reader_of(outcome)
        return [reader.document_scores(query) for query in range(2)]

    second = worker("attribute", "--run", folder.path, "--request", request)
    assert np.array_equal(scores(second), scores(run))
    assert "beside.py, inner.py of task " in warnings(run)[0]
    assert "the run's own copy is used" in warnings(run)[0]
    # What was there is read again, and nothing stays of the copies.
    (tmp_path / "signs" / "inner.py").write_text("SIGN = -1.0\n")
    again = start({**own, "task": f"{tmp_path / 'heights.py'}:Heights"}, "r2")
    assert not np.array_equal(scores(again), scores(run))


def test_a_model_s_own_code_is_refused_when_it_changed(
    config: dict[str, Any], start: Start, worker: Worker, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "c"))
    model = shutil.copytree(config["model"]["path"], tmp_path / "own_model")
    code = model / "modeling_own.py"
    code.write_text(
        "from transformers import GPT2LMHeadModel\n\n\nclass Own(GPT2LMHeadModel):\n    pass\n"
    )
    settings = json.loads((model / "config.json").read_text())
    settings["auto_map"] = {"AutoModelForCausalLM": "modeling_own.Own"}
    (model / "config.json").write_text(json.dumps(settings))
    changes = {"path": str(model), "trust_remote_code": True}
    run = start({**config, "model": {**config["model"], **changes}})
    assert run["ok"], run
    assert attribute(worker, run)["ok"]
    before = code.read_text()
    code.write_text(before + "# changed\n")
    refused = attribute(worker, run)
    assert refused["exit_code"] == 2 and "modeling_own.py, code of the model" in refused["message"]
    code.write_text(before)
    (model / "config.json").write_text(json.dumps(settings | {"activation_function": "relu"}))
    refused = attribute(worker, run)
    assert refused["exit_code"] == 2 and "config.json of " in refused["message"]


def test_a_model_of_the_hub_stays_at_its_commit(
    adapted: dict[str, Any], start: Start, worker: Worker, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    hub = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub._is_offline_mode", True, raising=False)
    names = ("huggingface_hub.constants.HF_HUB_CACHE", "transformers.utils.hub.HF_HUB_CACHE")
    for name in names:
        monkeypatch.setattr(name, str(hub), raising=False)
    repository = hub / "models--someone--tiny"
    commits = ["a" * 40, "b" * 40]
    for commit in commits:
        shutil.copytree(adapted["model"]["path"], repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commits[0])
    run = start({**adapted, "model": {**adapted["model"], "path": "someone/tiny"}})
    assert run["ok"], run
    made_from = RunFolder(Path(run["path"])).prepared()["fingerprint"]
    assert made_from["model"]["commit"] == commits[0]
    edit(repository / "snapshots" / commits[1] / "model.safetensors", "transformer.wpe.weight")
    (repository / "refs" / "main").write_text(commits[1])
    assert np.array_equal(token_scores(attribute(worker, run)), token_scores(run))
    shutil.copytree(hub, hub.with_name("moved"))
    with monkeypatch.context() as patch:
        shutil.rmtree(hub)
        for name in names:
            patch.setattr(name, str(hub.with_name("moved")), raising=False)
        assert np.array_equal(token_scores(attribute(worker, run)), token_scores(run))
    assert not warnings(run)
    shutil.copytree(hub.with_name("moved"), hub)
    edit(repository / "snapshots" / commits[0] / "model.safetensors", "transformer.wpe.weight")
    assert "the weights of someone/tiny changed" in attribute(worker, run)["message"]


def test_digests_cover_all_stored_tensors() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T, requires_grad=False)
            self.scale = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.bfloat16))
            self.register_buffer("mean", torch.zeros(0))
            self.register_buffer("angles", torch.ones(2), persistent=False)

    model = Model()
    before = weight_digests(model)
    assert set(before) == {"w", "scale", "mean"}
    assert set(weight_digests(model, all_buffers=True)) == {*before, "angles"}
    assert before["w"] == weight_digests(Model())["w"]
    with torch.no_grad():
        model.w[0, 1] = -0.0
        assert weight_digests(model)["w"] != before["w"]
        model.w[0, 1] = 3.0
    assert weight_digests(model) == before
    assert weight_digests(torch.nn.Identity()) == {}
