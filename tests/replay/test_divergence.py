"""A training or a replay that stops being finite raises, and names the step."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine import DataStream, Trainer
from engine.replay.optimizers import LearningRateSpec, OptimizerSpec, build_optimizer
from engine.replay.replay import DivergedError, Replay
from engine.replay.state import Cotangent, TrainState
from engine.runs.errors import RunError

STEPS = 4


class Line(nn.Module):
    """y = slope · x + shift, with a parameter that never gets a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.idle = nn.Parameter(torch.tensor(0.0, dtype=torch.float64))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.slope * x + self.idle * 0.0 - y) ** 2


def make_stream(steps: int = STEPS, bad: int | None = None) -> DataStream:
    rows = [{"x": np.float64(1.0 + i), "y": np.float64(2.0)} for i in range(2 * steps)]
    if bad is not None:
        rows[2 * bad]["y"] = np.float64(math.nan)
    return DataStream(rows, 2)


def make_trainer(learning_rate: float, eps_root: float = 1e-8) -> tuple[Trainer, TrainState]:
    spec = OptimizerSpec("adamw", learning_rate, eps_root=eps_root)
    optimizer = build_optimizer(spec, LearningRateSpec("constant", STEPS))
    return Trainer.initialize(Line(), optimizer)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_an_infinite_learning_rate_is_noticed_at_the_next_loss(name: str, tmp_path: Path) -> None:
    spec = OptimizerSpec(name, math.inf, eps_root=1e-8)  # type: ignore[arg-type]
    optimizer = build_optimizer(spec, LearningRateSpec("constant", STEPS))
    trainer, start = Trainer.initialize(Line(), optimizer)
    with pytest.raises(DivergedError, match=r"the loss is not finite at step 1$") as caught:
        trainer.train(start, make_stream(), save_dir=tmp_path, checkpointing="all")
    assert caught.value.step == 1


@pytest.mark.parametrize("step", range(STEPS))
def test_a_loss_that_is_no_number_names_its_step(step: int) -> None:
    trainer, start = make_trainer(0.1)
    with pytest.raises(DivergedError, match=f"the loss is not finite at step {step}$"):
        trainer.train(start, make_stream(bad=step))


def test_a_divergence_in_the_last_step_is_noticed(tmp_path: Path) -> None:
    trainer, start = make_trainer(math.inf)
    stream = make_stream(steps=1)
    with pytest.raises(DivergedError, match=r"the trained model is not finite at step 1$"):
        trainer.train(start, stream, save_dir=tmp_path, checkpointing="all")
    with pytest.raises(RunError, match="holds no complete trajectory"):
        trainer.backward(tmp_path, stream, make_stream(steps=1))


@pytest.mark.parametrize("schedule", ["all", "log"])
def test_without_eps_root_an_idle_parameter_has_no_derivative(
    schedule: str, tmp_path: Path
) -> None:
    trainer, start = make_trainer(0.1, eps_root=0.0)
    stream = make_stream()
    trainer.train(start, stream, save_dir=tmp_path, checkpointing=schedule)  # type: ignore[arg-type]
    with pytest.raises(DivergedError, match=f"the cotangent is not finite at step {STEPS - 1}$"):
        trainer.backward(tmp_path, stream, make_stream(steps=1))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_cotangent_that_is_no_number_stops_the_replay(value: float, tmp_path: Path) -> None:
    trainer, start = make_trainer(0.1)
    stream = make_stream()
    trainer.train(start, stream, save_dir=tmp_path, checkpointing="sqrt")
    with trainer.open(tmp_path) as reader:
        final = reader.load_state(STEPS)
        params = {name: torch.full_like(p, value) for name, p in final.params.items()}
        cotangent = Cotangent(params, trainer.step.stage.zero_cotangent(params, final.optimizer))
        taken: list[int] = []
        replay = Replay(
            trainer.step, reader, lambda step: stream.batch(step, torch.float64), reader.schedule
        )
        with pytest.raises(DivergedError, match=f"not finite at step {STEPS - 1}$"):
            replay.run([cotangent], lambda step, scores: taken.append(step))
    assert taken == []
