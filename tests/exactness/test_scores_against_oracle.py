"""Scores equal automatic differentiation through the whole training, in float64.

One small model family is checked under every pair of the options of training and replay. The full
product of the training options, each under every checkpointing schedule, is a slow test. Other
model families, ways to compute the loss and unusual data have tests of their own.
"""

from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest

from engine import CausalLMLoss
from engine.replay import optimizer_stage
from engine.replay.checkpointing import CheckpointingKind
from tests.exactness.attributing import (
    COEFFICIENTS,
    Attribution,
    Problem,
    attribute,
    compare,
    exact_language_model,
)
from tests.exactness.cases import document_weights, make_data, make_training
from tests.exactness.conftest import Agree
from tests.exactness.tiny_models import tiny_model
from tests.pairwise import pairwise

SCHEDULES = get_args(CheckpointingKind)
MICRO_BATCHES = (None, 1, 2)
GRANULARITIES = ("token", "document")
TRAININGS: dict[str, tuple[Any, ...]] = {
    "tied": ("tied", "untied"),
    "optimizer": ("adamw", "adam", "sgd"),
    "rate": ("constant", "linear", "cosine", "one_cycle"),
    "clip": (False, True),
    "layout": ("rows", "packed"),
    "epochs": (1, 2),
}
OPTIONS: dict[str, tuple[Any, ...]] = {
    **TRAININGS,
    "schedule": SCHEDULES,
    "micro_batch_size": MICRO_BATCHES,
    "reduction": tuple(COEFFICIENTS),
    "granularity": GRANULARITIES,
    # One group of all parameters, or groups of a few elements or many.
    "group_elements": (None, 37, 2**19),
    "fresh": (False, True),
    "queries_per_pass": (None, 1),
    "recompute": (False, True),
}
Options = dict[str, Any]


def problem_of(model: Any, options: Options) -> tuple[Problem, Any]:
    """The problem of some options, and the data weights of its tokens."""
    data = make_data(options["layout"])
    training = make_training(
        options["optimizer"], options["rate"], options["clip"], options["epochs"]
    )
    each = document_weights(data)
    tokens = data.token_weights(each)
    weights = each if options["granularity"] == "document" else tokens
    return Problem(CausalLMLoss(model), data, training, weights), tokens


@pytest.mark.parametrize("values", pairwise(*OPTIONS.values()), ids=lambda v: "-".join(map(str, v)))
def test_every_pair_of_options(
    values: tuple[Any, ...], agree: Agree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dict(zip(OPTIONS, values, strict=True))
    elements = options["group_elements"]
    monkeypatch.setattr(optimizer_stage, "GROUP_ELEMENTS", elements)
    model = tiny_model(f"gpt2 {options['tied']}")
    problem, tokens = problem_of(model, options)
    names = ("schedule", "micro_batch_size", "reduction", "fresh", "queries_per_pass", "recompute")
    how = Attribution(**{name: options[name] for name in names}, elementwise=elements is not None)
    truth = exact_language_model(model, problem.data, tokens, problem.training)
    group = f"{options['optimizer']}, {options['tied']}"
    compare(agree, group, problem, how, attribute(problem, how, tmp_path), truth)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "values"),
    enumerate(product(*TRAININGS.values())),
    ids=["-".join(map(str, values)) for values in product(*TRAININGS.values())],
)
def test_every_training_under_every_schedule(
    number: int, values: tuple[Any, ...], agree: Agree, tmp_path: Path
) -> None:
    options = dict(zip(TRAININGS, values, strict=True))
    model, reductions = tiny_model(f"gpt2 {options['tied']}"), tuple(COEFFICIENTS)
    problem, tokens = problem_of(model, {**options, "granularity": GRANULARITIES[number % 2]})
    truth = exact_language_model(model, problem.data, tokens, problem.training)
    for index, schedule in enumerate(SCHEDULES):
        micro_batch_size = MICRO_BATCHES[(number + index) % 3]
        how = Attribution(schedule, micro_batch_size, reductions[(number // 2 + index) % 4])
        ours = attribute(problem, how, tmp_path / schedule)
        compare(agree, f"{options['optimizer']}, {options['tied']}", problem, how, ours, truth)
