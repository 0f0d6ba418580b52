"""A user's task: a Python file beside the config."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from engine.attribution.prepare import prepare_run, restore_run
from engine.attribution.queries import measurement_batches, read_queries
from engine.evaluation.trust import read_verdict
from engine.runs.read_config import read_config
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreReader
from engine.tasks.user_code import code_files, load_module

Outcome = dict[str, Any]
DEVICE = torch.device("cpu")

OWN = '''
import json
import numpy as np
import torch
from torch import nn
from beside import SCALE
from engine import ExampleTask, Examples

class Heights(ExampleTask):
    """Regression with batch norm; what is asked about is the prediction, not the loss."""

    def read_data(self, source, where):
        with open(source.path) as file:
            rows = [json.loads(line) for line in file]
        x = np.array([row["x"] for row in rows])
        y = np.array([row["y"] for row in rows])
        names = [row["name"] for row in rows]
        return Examples({"x": x, "y": y}, names, np.arange(len(rows)), {"name": names})

    def build_model(self, config, columns):
        width = config.model.options["width"]
        inputs = columns["x"].shape[1]
        return nn.Sequential(
            nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 1)
        )

    def losses(self, model, columns):
        return (model(columns["x"])[:, 0] - columns["y"]) ** 2

    def measure(self, model, columns):
        return SCALE * model(columns["x"])[:, 0]
'''


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "heights.py").write_text(OWN)
    (tmp_path / "beside.py").write_text("SCALE = 3.0\n")
    random = np.random.default_rng(0)
    for name, count in (("train", 8), ("asked", 2)):
        rows = [
            {"x": random.normal(size=3).tolist(), "y": random.normal(), "name": f"{name} {i}"}
            for i in range(count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {
        "task": "heights:Heights",
        "model": {"path": "own", "dtype": "float64", "options": {"width": 4}},
        "data": {"path": "train.jsonl"},
        "training": {
            "epochs": 3,
            "batch_size": 4,
            "optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.5},
        },
        "queries": {"path": "asked.jsonl"},
        "trajectory": {"checkpointing": "log"},
    }


def test_only_files_that_exist_are_code_of_a_task(
    own: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = str(tmp_path / "heights.py")
    load_module(place, {})
    assert set(code_files(place).values()) == {Path(place), tmp_path / "beside.py"}


def test_a_model_of_whole_batches_is_planned(
    own: dict[str, Any], start: Callable[..., Outcome]
) -> None:
    outcome = start({**own, "training": {**own["training"], "epochs": 5}})
    events = RunFolder(Path(outcome["path"])).events()
    assert [event["memory"] > 10**8 for event in events if event["event"] == "planned"] == [True]


def test_user_task(
    own: dict[str, Any], start: Callable[..., Outcome], worker: Callable[..., Outcome]
) -> None:
    outcome = start(own)
    assert outcome["ok"], outcome
    folder = RunFolder(Path(outcome["path"]))
    assert pq.read_table(folder.documents_file)["text"].to_pylist()[3] == "train 3"
    scores = ScoreReader(folder.attributions / "a0001")
    all_scores = np.stack([scores.document_scores(query) for query in range(2)])

    job, _ = prepare_run(read_config(folder.config_file), DEVICE)
    queries = read_queries(job.config.queries, job)  # type: ignore[arg-type]
    batches = measurement_batches(queries, job)
    direction = torch.linspace(-1, 1, 8, dtype=torch.float64)

    def phi(shift: float) -> Any:
        stream = job.stream("document")
        stream.weights = stream.weights + shift * direction
        final = job.trainer.train(job.start, stream)
        return np.array([job.trainer.evaluator.gradient(final, one)[0] for one in batches])

    h = 1e-4
    difference = (8 * (phi(h) - phi(-h)) - (phi(2 * h) - phi(-2 * h))) / (12 * h)
    assert np.allclose(all_scores @ direction.numpy(), difference, rtol=1e-7, atol=1e-10)

    measured = pq.read_table(folder.attributions / "a0001" / "queries.parquet").to_pydict()
    assert measured["loss_after"] == pytest.approx(phi(0.0).tolist(), rel=1e-12)
    state = job.trainer.open(folder.trajectory).load_state(6)
    model = job.model.loss.model.eval()
    names = {
        name.removeprefix("model."): t for name, t in {**state.params, **state.buffers}.items()
    }
    x = torch.from_numpy(queries.items[1].document.inputs["x"])
    expected = 3.0 * torch.func.functional_call(model, names, x[None]).item()
    assert measured["loss_after"][1] == pytest.approx(expected, rel=1e-12)

    request = json.dumps({"queries": {"path": str(folder.path.parent.parent / "asked.jsonl")}})
    again = worker("attribute", "--run", folder.path, "--request", request)
    reader = ScoreReader(folder.attributions / again["attribution"])
    assert np.array_equal(reader.document_scores(1), all_scores[1])
    rows = restore_run(folder, DEVICE).rows.arrays()
    assert all(np.array_equal(rows[name], stored) for name, stored in job.rows.arrays().items())


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("heights:Widths", "cannot be loaded (AttributeError"),
        ("nowhere:Task", "cannot be loaded (ModuleNotFoundError"),
        ("json:JSONDecoder", "json:JSONDecoder is not an engine.ExampleTask"),
    ],
)
def test_invalid_tasks_are_refused(
    task: str, message: str, own: dict[str, Any], start: Callable[..., Outcome]
) -> None:
    outcome = start({**own, "task": task})
    assert outcome["exit_code"] == 2 and message in outcome["message"]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("nn.Tanh()", "nn.Dropout(0.5)", "trains with dropout (2=0.5)"),
        ('(model(columns["x"])[:, 0] -', '(model(columns["x"]) -', "shape (4, 4) for 4 examples"),
    ],
)
def test_models_that_cannot_be_replayed(
    before: str, after: str, message: str, own: dict[str, Any], start: Callable[..., Outcome],
    tmp_path: Path,
) -> None:  # fmt: skip
    assert before in OWN
    (tmp_path / "heights.py").write_text(OWN.replace(before, after, 1))
    outcome = start(own)
    assert outcome["exit_code"] == 2 and message in outcome["message"], outcome


DETACHING = "nn.Tanh(), Detaching(),"
DETACHING_CLASS = """

class Detaching(nn.Module):
    def forward(self, h):
        return h / h.detach().norm(dim=-1, keepdim=True)
"""


def test_a_stop_gradient_is_refused_unless_forced(
    own: dict[str, Any],
    start: Callable[..., Outcome],
    worker: Callable[..., Outcome],
    tmp_path: Path,
) -> None:
    good = start(own, "good")
    prepared = RunFolder(Path(good["path"])).prepared()["derivative"]
    assert prepared["passed"] and not prepared["forced"] and prepared["dtype"] == "float64"
    assert prepared["error"] < prepared["bound"]

    (tmp_path / "heights.py").write_text(OWN.replace("nn.Tanh(),", DETACHING) + DETACHING_CLASS)
    outcome = start(own, "refused")
    assert outcome["exit_code"] == 2, outcome
    assert outcome["message"].startswith(f"task: {tmp_path / 'heights.py'}:Heights: ")
    assert "second derivatives of 3 (Detaching)" in outcome["message"]
    assert outcome["message"].endswith("or force: [derivative]")

    without = OWN.replace("nn.BatchNorm1d(width), nn.Tanh(),", DETACHING) + DETACHING_CLASS
    (tmp_path / "heights.py").write_text(without)
    plan = worker(
        "plan", "--config", tmp_path / "config.yaml", "--runs", tmp_path, "--force", "derivative"
    )
    assert plan["ok"], plan
    assert plan["derivative"]["forced"] and "do not trust the scores" in " ".join(plan["warnings"])

    forced = start({**own, "force": ["derivative"]}, "forced")
    assert forced["ok"], forced
    folder = RunFolder(Path(forced["path"]))
    warnings = [e["message"] for e in folder.events() if e["event"] == "warning"]
    assert any("do not trust the scores" in message for message in warnings)
    record = ScoreReader(folder.attributions / "a0001").record
    assert record is not None and not record["derivative"]["passed"]
    verdict = read_verdict(folder.path, None)
    assert verdict.symbol == "✗" and verdict.words == "don't trust, wrong derivatives"
    assert "train without force" in verdict.remedy


def test_stop_gradient_in_a_query_loss_is_refused(
    own: dict[str, Any], start: Callable[..., Outcome], tmp_path: Path
) -> None:
    code = OWN.replace('SCALE * model(columns["x"])[:, 0]', 'self.half(model(columns["x"])[:, 0])')
    code += "\n    def half(self, y):\n        return y * y.detach()\n"
    (tmp_path / "heights.py").write_text(code)
    outcome = start(own)
    assert outcome["exit_code"] == 2 and "gradient of the measured loss" in outcome["message"]
