"""A trajectory of another model or optimizer is refused."""

from pathlib import Path
from typing import Any

import pytest

from engine import CausalLMLoss
from engine.runs.errors import RunError
from tests.exactness.attributing import Attribution, Problem, make_trainer
from tests.exactness.cases import document_weights, make_data, make_training
from tests.exactness.tiny_models import tiny_model


def trainer_of(model: str, optimizer: Any) -> tuple[Any, Any, Problem]:
    data, training = make_data("rows"), make_training(optimizer=optimizer)
    weights = data.token_weights(document_weights(data))
    problem = Problem(CausalLMLoss(tiny_model(model)), data, training, weights)
    return *make_trainer(problem.loss, training, Attribution()), problem


@pytest.mark.parametrize(
    ("model", "optimizer", "message"),
    [
        ("gpt2 tied", "adamw", "was written with another optimizer"),
        ("llama tied", "sgd", "belongs to another model: its parameters differ"),
        ("gpt2 two layers", "sgd", "belongs to another model: its parameters differ"),
    ],
)
def test_a_trajectory_of_something_else(
    model: str, optimizer: str, message: str, tmp_path: Path
) -> None:
    trainer, start, problem = trainer_of("gpt2 tied", "sgd")
    trainer.train(start, problem.stream(), save_dir=tmp_path, checkpointing="all")
    other, _, _ = trainer_of(model, optimizer)
    with pytest.raises(RunError, match=message):
        other.open(tmp_path).load_state(0)
