"""Scores of models with batch norm are exact: running statistics are part of the train state.

The oracle writes batch norm out from its definition and keeps the running statistics of every
step in the one graph. The measurements are taken in eval mode, where they depend on them.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from engine import DataStream, Scores, TrainControl, Trainer
from engine.replay.checkpointing import CheckpointingKind
from engine.replay.optimizers import build_optimizer
from engine.replay.state import TrainState
from engine.runs.errors import StoppedError
from engine.training.query_loss import query_losses_of
from tests.exactness import oracle
from tests.exactness.attributing import BOUND
from tests.exactness.cases import make_training
from tests.exactness.conftest import Agree
from tests.pairwise import pairwise

SCHEDULES = get_args(CheckpointingKind)
TRAINED, QUERIES, CLASSES = 7, 2, 4


@dataclass(frozen=True)
class Images:
    """Images (rows, 2, 5, 5) and labels (rows,)."""

    image: Tensor
    label: Tensor

    def __getitem__(self, rows: NDArray[np.int64]) -> "Images":
        chosen = torch.from_numpy(rows)
        return Images(self.image[chosen], self.label[chosen])

    def __len__(self) -> int:
        return len(self.image)


class Net(nn.Module):
    """A convolution and a hidden layer, each with batch norm: with momentum, and without."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.conv = nn.Conv2d(2, 3, 3)
            self.norm = nn.BatchNorm2d(3, momentum=0.3)
            self.hidden = nn.Linear(3 * 9, 6)
            self.plain = nn.BatchNorm1d(6, momentum=None, affine=False)
            self.head = nn.Linear(6, CLASSES)
        self.double()

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        x = F.silu(self.norm(self.conv(image)))
        x = torch.tanh(self.plain(self.hidden(x.flatten(1))))
        return F.cross_entropy(self.head(x), label, reduction="none")


def losses(
    params: oracle.Params, buffers: oracle.Params, rows: Images
) -> tuple[Tensor, int, oracle.Params]:
    """Losses while training."""
    x = F.conv2d(rows.image, params["conv.weight"], params["conv.bias"])
    x, first = oracle.batch_norm(x, buffers, "norm", 0.3)
    x = hidden(params, x)
    x, second = oracle.batch_norm(x, buffers, "plain", None)
    return head_losses(params, x, rows), len(rows), {**first, **second}


def losses_in_eval_mode(params: oracle.Params, buffers: oracle.Params, rows: Images) -> Tensor:
    """Losses under the running statistics."""
    x = F.conv2d(rows.image, params["conv.weight"], params["conv.bias"])
    x = oracle.normalised(x, buffers["norm.running_mean"], buffers["norm.running_var"])
    x = hidden(params, x)
    x = oracle.normalised(x, buffers["plain.running_mean"], buffers["plain.running_var"])
    return head_losses(params, x, rows)


def hidden(params: oracle.Params, x: Tensor) -> Tensor:
    x = x * params["norm.weight"].view(1, -1, 1, 1) + params["norm.bias"].view(1, -1, 1, 1)
    x = (x * torch.sigmoid(x)).flatten(1)
    return x @ params["hidden.weight"].t() + params["hidden.bias"]


def head_losses(params: oracle.Params, x: Tensor, rows: Images) -> Tensor:
    logits = torch.tanh(x) @ params["head.weight"].t() + params["head.bias"]
    return logits.logsumexp(1) - logits.gather(1, rows.label[:, None])[:, 0]


def make_images() -> Images:
    generator = torch.Generator().manual_seed(8)
    image = torch.randn(TRAINED + QUERIES, 2, 5, 5, generator=generator, dtype=torch.float64)
    return Images(image, torch.arange(TRAINED + QUERIES) % CLASSES)


def make_weights() -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return 0.5 + torch.rand(TRAINED, generator=generator, dtype=torch.float64)


def streams(training: oracle.Training, weights: Tensor) -> tuple[DataStream, DataStream]:
    images = make_images()
    rows: list[dict[str, Any]] = [
        {"image": image.numpy(), "label": label.item()}
        for image, label in zip(images.image, images.label, strict=True)
    ]
    stream = DataStream(rows[:TRAINED], 3, order=training.order)
    stream.weights = weights
    return stream, DataStream(rows[TRAINED:], 1)


def make_trainer(training: oracle.Training) -> tuple[Trainer, TrainState]:
    return Trainer.initialize(
        Net(),
        build_optimizer(training.optimizer, training.rate),
        max_grad_norm=training.max_grad_norm,
        elementwise=True,
    )


def make_problem(optimizer: str, clip: bool = False) -> oracle.Training:
    """Seven images by twos and threes: a batch of one has no variance."""
    training = make_training(optimizer, "one_cycle", clip)
    order = [np.array(step) for step in ([5, 1, 0], [2, 4], [6, 3], [0, 6, 2], [1, 4], [5, 3])]
    return replace(training, order=order, rate=replace(training.rate, steps=len(order)))


def exact(training: oracle.Training, weights: Tensor, *, through_buffers: bool = True) -> Tensor:
    """φ of the queries as a row, above their derivatives in the weights: (queries, 1 + weights)."""
    model, images, leaf = Net(), make_images(), weights.clone().requires_grad_()
    start = {name: buffer.clone() for name, buffer in model.named_buffers()}
    rows = np.arange(TRAINED + QUERIES)
    params, buffers = oracle.train_changing(
        losses,
        oracle.leaves_of(model),
        start,
        images[rows[:TRAINED]],
        [leaf] * len(training.order),
        training,
    )
    if not through_buffers:
        buffers = {name: buffer.detach() for name, buffer in buffers.items()}
    phi = losses_in_eval_mode(params, buffers, images[rows[TRAINED:]])
    grads = [torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in phi]
    return torch.stack([torch.cat([p[None], g]) for p, g in zip(phi, grads, strict=True)]).detach()


def check(agree: Agree, ours: Scores, truth: Tensor) -> None:
    agree("batch norm", ours.weights, truth[:, 1:], BOUND)
    torch.testing.assert_close(ours.query_losses, truth[:, 0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.steps.sum(1), truth[:, 1:].sum(1), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("optimizer", "clip", "schedule"), pairwise(("sgd", "adamw"), (False, True), SCHEDULES)
)
def test_scores(
    optimizer: str, clip: bool, schedule: CheckpointingKind, agree: Agree, tmp_path: Path
) -> None:
    training, weights = make_problem(optimizer, clip), make_weights()
    (stream, queries), (trainer, start) = streams(training, weights), make_trainer(training)
    trainer.train(start, stream, save_dir=tmp_path, checkpointing=schedule)
    # As a later process does.
    seen: dict[str, Any] = {}
    ours = make_trainer(training)[0].backward(
        tmp_path, stream, queries, observer=lambda event, /, **facts: seen.update({event: facts})
    )
    check(agree, ours, exact(training, weights))
    assert seen["reproduced"] == {"exact": True, "difference": 0.0}


def test_buffers_carry_some_of_the_influence() -> None:
    training, weights = make_problem("sgd"), make_weights()
    whole, without = exact(training, weights), exact(training, weights, through_buffers=False)
    assert (whole - without)[:, 1:].norm() > 0.05 * whole[:, 1:].norm()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_interrupted_and_resumed(schedule: CheckpointingKind, tmp_path: Path) -> None:
    training, weights = make_problem("sgd"), make_weights()
    (stream, queries), (trainer, start) = streams(training, weights), make_trainer(training)
    whole = trainer.train(start, stream, save_dir=tmp_path / "whole", checkpointing=schedule)
    expected = trainer.backward(tmp_path / "whole", stream, queries)
    stops = iter([False, False, False, True])
    control = TrainControl(should_stop=lambda: next(stops), save_seconds=0.0)
    with pytest.raises(StoppedError):
        make_trainer(training)[0].train(
            start, stream, save_dir=tmp_path / "cut", checkpointing=schedule, control=control
        )
    trainer, start = make_trainer(training)
    final = trainer.train(
        start,
        stream,
        save_dir=tmp_path / "cut",
        checkpointing=schedule,
        control=TrainControl(resume=True),
    )
    assert set(final.buffers) == set(whole.buffers) and len(whole.buffers) == 6
    assert all(torch.equal(final.buffers[name], b) for name, b in whole.buffers.items())
    assert torch.equal(
        trainer.backward(tmp_path / "cut", stream, queries).weights, expected.weights
    )


def test_training_is_torch_s_own() -> None:
    training, weights = make_problem("sgd"), torch.ones(TRAINED, dtype=torch.float64)
    training = replace(training, rate=replace(training.rate, name="constant"))
    (stream, _), (trainer, start) = streams(training, weights), make_trainer(training)
    ours, model, spec = trainer.train(start, stream), Net(), training.optimizer
    optimizer = torch.optim.SGD(
        model.parameters(), spec.learning_rate, spec.momentum, weight_decay=spec.weight_decay
    )
    for step in range(len(stream)):
        optimizer.zero_grad()
        model(**stream.batch(step).inputs).mean().backward()
        optimizer.step()
    tensors = {**ours.params, **ours.buffers}
    for name, value in model.state_dict().items():
        torch.testing.assert_close(tensors[name], value, rtol=1e-10, atol=1e-12)


def test_finite_differences(tmp_path: Path) -> None:
    training, weights = make_problem("sgd"), make_weights()
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(TRAINED, generator=generator, dtype=torch.float64)

    def phi(shift: float) -> Tensor:
        (stream, queries) = streams(training, weights + shift * direction)
        trainer, start = make_trainer(training)
        final = trainer.train(start, stream)
        measurements = query_losses_of(queries, "none", torch.float64)
        return torch.tensor(
            [trainer.evaluator.cotangent(final, one)[0] for one in measurements],
            dtype=weights.dtype,
        )

    (stream, queries), (trainer, start) = streams(training, weights), make_trainer(training)
    trainer.train(start, stream, save_dir=tmp_path, checkpointing="gradients")
    ours = trainer.backward(tmp_path, stream, queries).weights @ direction
    h = 1e-4
    difference = (8 * (phi(h) - phi(-h)) - (phi(2 * h) - phi(-2 * h))) / (12 * h)
    torch.testing.assert_close(ours, difference, rtol=1e-7, atol=1e-10)


def test_a_batch_is_not_divided() -> None:
    spec = make_problem("sgd")
    with pytest.raises(ValueError, match="batch norm, whose statistics are those of a whole batch"):
        Trainer.initialize(Net(), build_optimizer(spec.optimizer, spec.rate), micro_batch_size=2)


def test_layers_in_eval_mode_stay_as_they_are(tmp_path: Path) -> None:
    training, weights = make_problem("sgd"), make_weights()
    stream, _ = streams(training, weights)
    model = Net().eval()
    trainer, start = Trainer.initialize(model, build_optimizer(training.optimizer, training.rate))
    assert not start.buffers and not trainer.train(start, stream).buffers


class Counter(nn.Module):
    """Changes a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1)
        return (x * self.weight).sum(1)


def test_other_buffers_are_refused() -> None:
    training = make_problem("sgd")
    stream = DataStream([{"x": np.ones(2, np.float32)}] * 4, 2)
    trainer, start = Trainer.initialize(
        Counter(), build_optimizer(training.optimizer, training.rate)
    )
    with pytest.raises(TypeError, match="Counter changes its buffer seen while training"):
        trainer.train(start, stream)
