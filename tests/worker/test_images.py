"""Image runs: exact scores, resumed attempts, later attributions, and invalid configs."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engine.attribution.prepare import prepare_run
from engine.runs.config import RunConfig
from engine.runs.read_config import read_config
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreReader
from engine.runs.tables import RowTable
from tests.data.tiny_images import write_mnist
from tests.exactness import oracle

Outcome = dict[str, Any]
Start = Callable[..., Outcome]
DEVICE = torch.device("cpu")


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Any]:
    """A config of ten images of 12 × 12 pixels in four classes."""
    write_mnist(tmp_path / "mnist", size=12)
    source = {"path": str(tmp_path / "mnist")}
    optimizer = {"name": "sgd", "learning_rate": 0.1, "momentum": 0.8, "weight_decay": 0.1}
    return {
        "name": "images",
        "task": "image_classification",
        "model": {"path": "cnn", "dtype": "float64", "options": {"width": 2, "classes": 4}},
        "data": source,
        "training": {"epochs": 2, "batch_size": 4, "optimizer": optimizer},
        "queries": {**source, "split": "test[:2]"},
        "trajectory": {"checkpointing": "gradients"},
    }


def resnet(config: dict[str, Any], width: float = 0.04) -> dict[str, Any]:
    options = {"width": width, "classes": 4, "final_scale": 0.5, "pooling_epsilon": 0.2}
    return {**config, "model": {**config["model"], "path": "resnet9", "options": options}}


def with_optimizer(config: dict[str, Any], **changed: Any) -> dict[str, Any]:
    optimizer = {**config["training"]["optimizer"], **changed}
    return {**config, "training": {**config["training"], "optimizer": optimizer}}


def scores_of(outcome: Outcome) -> NDArray[Any]:
    assert outcome["ok"], outcome
    reader = ScoreReader(Path(outcome["path"]) / "attributions" / outcome["attribution"])
    assert not reader.has_tokens
    return np.stack([reader.document_scores(query) for query in range(reader.queries)])


@dataclass(frozen=True)
class Rows:
    image: Tensor
    label: Tensor

    def __getitem__(self, rows: NDArray[np.int64]) -> "Rows":
        return Rows(self.image[rows], self.label[rows])

    def __len__(self) -> int:
        return len(self.label)


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    return logits.logsumexp(1) - logits.gather(1, label[:, None])[:, 0]


class Oracle:
    """The models written out once more as functions of parameters and buffers by name."""

    def __init__(self, name: str, training: bool, x: Tensor) -> None:
        self.forward = {"cnn": self.cnn, "resnet9": self.resnet9}[name]
        self.training = training
        self.mean, self.deviation = x.mean(), ((x - x.mean()) ** 2).mean().sqrt()
        self.after: oracle.Params = {}

    def losses(
        self, params: oracle.Params, buffers: oracle.Params, rows: Rows
    ) -> tuple[Tensor, int, oracle.Params]:
        self.params = {n.removeprefix("model.network."): p for n, p in params.items()}
        self.buffers = {n.removeprefix("model.network."): b for n, b in buffers.items()}
        logits = self.forward((rows.image - self.mean) / self.deviation)
        after = {f"model.network.{name}": buffer for name, buffer in self.after.items()}
        return cross_entropy(logits, rows.label), len(rows), after

    def cnn(self, x: Tensor) -> Tensor:
        for name in ("first", "second"):
            weight, bias = self.params[f"{name}.weight"], self.params[f"{name}.bias"]
            x = F.conv2d(x, weight, bias, padding=1).clamp(min=0)
            x = (x[..., ::2, :] + x[..., 1::2, :]) / 2
            x = (x[..., ::2] + x[..., 1::2]) / 2
        return x.flatten(1) @ self.params["head.weight"].t() + self.params["head.bias"]

    def resnet9(self, x: Tensor) -> Tensor:
        x = self.convolution("down", self.convolution("stem", x, 1, 1), 2, 2)
        x = x + self.convolution("first.two", self.convolution("first.one", x, 1, 1), 1, 1)
        x = self.convolution("middle", x, 1, 1)
        corners = [x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
        x = 0.2 * sum((corner / 0.2).exp() for corner in corners).log()
        x = x + self.convolution("second.two", self.convolution("second.one", x, 1, 1), 1, 1)
        x = self.convolution("last", x, 1, 0)
        x = 0.2 * (x / 0.2).exp().sum((2, 3)).log()
        return 0.5 * x @ self.params["head.weight"].t()

    def convolution(self, name: str, x: Tensor, stride: int, padding: int) -> Tensor:
        x = F.conv2d(x, self.params[f"{name}.conv.weight"], stride=stride, padding=padding)
        own = f"{name}.norm"
        if self.training:
            x, after = oracle.batch_norm(x, self.buffers, own)
            self.after |= after
        else:
            statistics = [self.buffers[f"{own}.running_{n}"] for n in ("mean", "var")]
            x = oracle.normalised(x, *statistics)
        weight, bias = (self.params[f"{own}.{n}"].view(1, -1, 1, 1) for n in ("weight", "bias"))
        return (x * weight + bias).clamp(min=0)


def exact(folder: Path, written: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """φ and its derivatives of the first two test images, from the files of images."""
    config = read_config(folder / "run_config.yaml")
    job, _ = prepare_run(config, DEVICE)
    (images, labels), (test_images, test_labels) = written["train"], written["t10k"]
    rows, queries = (
        Rows(torch.tensor(x[:, None]).double(), torch.tensor(y).long())
        for x, y in ((images, labels), (test_images[:2], test_labels[:2]))
    )
    optimizer = oracle.OptimizerSpec(**config.training.optimizer.model_dump())
    training = oracle.Training(optimizer, job.rate, None, job.order)
    leaf = torch.ones(len(rows), dtype=torch.float64, requires_grad=True)
    start = job.start
    params, buffers = oracle.train_changing(
        Oracle(config.model.path, True, rows.image).losses,
        {name: p.clone().requires_grad_() for name, p in start.params.items()},
        dict(start.buffers),
        rows,
        [leaf] * len(job.order),
        training,
    )
    phi, _, _ = Oracle(config.model.path, False, rows.image).losses(params, buffers, queries)
    grads = [torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in phi]
    return phi.detach(), torch.stack(grads)


@pytest.mark.parametrize(
    ("model", "optimizer", "bias_lr_multiplier"),
    [
        ("cnn", "sgd", 8.0),
        pytest.param("cnn", "adamw", 1.0, marks=pytest.mark.slow),
        pytest.param("resnet9", "sgd", 1.0, marks=pytest.mark.slow),
        pytest.param("resnet9", "adamw", 8.0, marks=pytest.mark.slow),
    ],
)
def test_stored_scores_are_exact(
    model: str, optimizer: str, bias_lr_multiplier: float, images: dict[str, Any], start: Start,
    tmp_path: Path, record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    config = images if model == "cnn" else resnet(images)
    if optimizer == "adamw":
        config = with_optimizer(config, name="adamw", learning_rate=0.02, eps_root=1e-6)
    outcome = start(with_optimizer(config, bias_lr_multiplier=bias_lr_multiplier))
    computed, folder = scores_of(outcome), Path(outcome["path"])
    phi, expected = exact(folder, write_mnist(tmp_path / "mnist", size=12))
    error = float(np.linalg.norm(computed - expected.numpy()) / np.linalg.norm(computed))
    record_property("largest relative error", (f"images, {model}", error, 1e-9))
    assert error <= 1e-9
    queries = pq.ParquetFile(folder / "attributions/a0001/queries.parquet").read().to_pydict()
    assert queries["loss_after"] == pytest.approx(phi.tolist(), rel=1e-11)


def test_run_folder(images: dict[str, Any], start: Start, tmp_path: Path) -> None:
    outcome = start(images)
    folder = RunFolder(Path(outcome["path"]))
    assert folder.config().attribution.granularity == "document"
    documents = pq.ParquetFile(folder.documents_file).read().to_pylist()
    _, labels = write_mnist(tmp_path / "mnist", size=12)["train"]
    assert [d["label"] for d in documents] == labels.tolist()
    assert documents[7]["text"] == f"an image, label {labels[7]}, row 7"
    rows = RowTable(folder.rows_store)
    assert rows.document_ids().tolist() == [[row] for row in range(10)]
    assert rows.steps().shape == (10, 2) and not folder.tokenizer_file.exists()
    queries = pq.ParquetFile(folder.path / "attributions/a0001/queries.parquet").read()
    assert "input_ids" not in queries.column_names and "inputs" not in queries.column_names


def test_schedules_give_the_same_bits(images: dict[str, Any], start: Start) -> None:
    config = resnet(images)
    by_schedule = {
        kind: scores_of(start({**config, "trajectory": {"checkpointing": kind}}, kind))
        for kind in ("all", "gradients", "sqrt", "log")
    }
    assert all(np.array_equal(scores, by_schedule["all"]) for scores in by_schedule.values())


@pytest.mark.parametrize(
    "phase", ["replay_step", pytest.param("train_step", marks=pytest.mark.slow)]
)
def test_interrupted_and_resumed(
    phase: str, images: dict[str, Any], start: Start, worker: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from engine.attribution.process import Stop

    monkeypatch.setenv("MAGIC_SAVE_SECONDS", "0")
    config = {**resnet(images), "trajectory": {"checkpointing": "sqrt"}}
    whole = scores_of(start(config, "whole"))
    events: list[dict[str, Any]] = []

    def is_due(self: Stop) -> bool:
        file = Path(images["data"]["path"]).parent / "runs" / "cut" / "events.jsonl"
        return sum(f'"{phase}"' in line for line in file.read_text().splitlines()) == 2

    with monkeypatch.context() as patch:
        patch.setattr(Stop, "__call__", is_due)
        assert start(config, "cut")["ending"] == "stopped"
    run = Path(images["data"]["path"]).parent / "runs" / "cut"
    assert np.array_equal(scores_of(worker("resume", "--run", run)), whole)
    events = RunFolder(run).events()
    assert any(event["event"] == "resumed" for event in events)


def test_later_attribution_gives_the_same_bits(
    images: dict[str, Any], start: Start, worker: Callable[..., Outcome]
) -> None:
    first = start(resnet(images))
    more = {"queries": {**images["data"], "split": "test[1:3]"}, "granularity": "token"}
    second = worker("attribute", "--run", first["path"], "--request", json.dumps(more))
    assert np.array_equal(scores_of(second)[0], scores_of(first)[1])
    few = {**more, "queries": {**images["data"], "split": "test[:2]+test[:1]"}}
    third = scores_of(worker("attribute", "--run", first["path"], "--request", json.dumps(few)))
    assert np.array_equal(third, scores_of(first)[[0, 1, 0]])


def test_text_queries_and_losses_of_images_are_refused(
    images: dict[str, Any], start: Start, worker: Callable[..., Outcome]
) -> None:
    run = start(images)["path"]
    text = json.dumps({"texts": ["a cat"]})
    outcome = worker("attribute", "--run", run, "--request", text)
    assert outcome["exit_code"] == 2 and "has no text queries" in outcome["message"]
    outcome = worker("losses", "--run", run, "--request", text)
    assert outcome["exit_code"] == 2 and "there are no tokens" in outcome["message"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "image"}, "'image' is no task; name causal_lm, image_classification, or"),
        ({"attribution": {"granularity": "token"}}, "has no tokens; leave it out"),
        ({"model": {"path": "vgg"}}, "'vgg' is not a built-in model; give one of cnn, resnet9"),
        ({"model": {"path": "cnn", "options": {"depth": 3}}}, "options.depth is not an option"),
        ({"model": {"path": "cnn", "options": {"width": 0}}}, "0 is not a positive int"),
        ({"model": {"path": "cnn", "options": {"activation": "x"}}}, "'x' is not one of relu"),
        ({"model": {"path": "cnn", "options": {"classes": 2}}}, "labels range from 0 to 3"),
        ({"model": {"path": "cnn", "lora": {"target_modules": ["a"]}}}, "adapters are for"),
        ({"data": {"path": "PATH", "split": "train[:0]"}}, "selects no document"),
    ],
)  # fmt: skip
def test_invalid_configs_are_refused_in_one_sentence(
    change: dict[str, Any], message: str, images: dict[str, Any], start: Start
) -> None:
    change = json.loads(json.dumps(change).replace("PATH", images["data"]["path"]))
    outcome = start({**images, **change})
    assert outcome["exit_code"] == 2 and message in outcome["message"], outcome


def test_batch_norm_needs_whole_batches(images: dict[str, Any], start: Start) -> None:
    training = {**images["training"], "micro_batch_size": 2}
    outcome = start({**resnet(images), "training": training})
    assert outcome["exit_code"] == 2
    assert "statistics are those of a whole batch; leave it out" in outcome["message"]


def test_language_models_take_no_options(config: dict[str, Any], start: Start) -> None:
    config["model"]["options"] = {"width": 2}
    outcome = start(config)
    assert outcome["exit_code"] == 2 and "language models take none" in outcome["message"]


def test_digest_depends_on_task_and_bias_rate() -> None:
    config = RunConfig.model_validate({"model": {"path": "m"}, "data": {"path": "d"}})
    for changed in (
        {"task": "image_classification"},
        {"training": {"optimizer": {"bias_lr_multiplier": 2.0}}},
    ):
        other = RunConfig.model_validate({**config.model_dump(exclude={"attribution"}), **changed})
        assert other.digest() != config.digest()
