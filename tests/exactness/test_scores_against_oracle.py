"""Scores equal automatic differentiation through the whole training, in float64.

Of one fast model family the full product of the training options is checked under every schedule:
{tied, untied} × optimizer × learning rate × clipping × layout × epochs × schedule. What must not
matter at all is spread over that product so that every pair of all options occurs: micro-batches,
granularity and reduction (a test of this file counts the pairs). Other families, ways to compute
the loss and unusual data have smaller sets of their own.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any, get_args

import pytest

from engine import CausalLMLoss
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

SCHEDULES = get_args(CheckpointingKind)
TRAININGS: dict[str, tuple[Any, ...]] = {
    "tied": ("tied", "untied"),
    "optimizer": ("adamw", "adam", "sgd"),
    "rate": ("constant", "one_cycle"),
    "clip": (False, True),
    "layout": ("rows", "packed"),
    "epochs": (1, 2),
}
MICRO_BATCHES = (1, 2, None)
GRANULARITIES = ("token", "document")
REDUCTIONS = tuple(COEFFICIENTS)


def attributions(number: int) -> Iterator[tuple[Attribution, str]]:
    """For the ``number``-th training every schedule, with the other options taking turns."""
    for index, schedule in enumerate(SCHEDULES):
        micro = MICRO_BATCHES[(number + index) % 3]
        reduction = REDUCTIONS[(number // 2 + number // 8 + index) % 4]
        granularity = GRANULARITIES[(number // 3 + number // 24 + index) % 2]
        yield Attribution(schedule, micro, reduction), granularity


@pytest.mark.parametrize(
    ("number", "options"),
    [
        pytest.param(
            number, dict(zip(TRAININGS, values, strict=True)), id="-".join(map(str, values))
        )
        for number, values in enumerate(product(*TRAININGS.values()))
    ],
)
def test_every_training_under_every_schedule(
    number: int, options: dict[str, Any], agree: Agree, tmp_path: Path
) -> None:
    model = tiny_model(f"gpt2 {options['tied']}")
    data = make_data(options["layout"])
    training = make_training(
        options["optimizer"], options["rate"], options["clip"], options["epochs"]
    )
    each = document_weights(data)
    truth = exact_language_model(model, data, data.token_weights(each), training)
    for how, granularity in attributions(number):
        weights = each if granularity == "document" else data.token_weights(each)
        problem = Problem(CausalLMLoss(model), data, training, weights)
        ours = attribute(problem, how, tmp_path / how.schedule)
        compare(agree, f"{options['optimizer']}, {options['tied']}", problem, how, ours, truth)


def test_every_pair_of_options_is_checked() -> None:
    seen: Counter[tuple[Any, ...]] = Counter()
    for number, values in enumerate(product(*TRAININGS.values())):
        for how, granularity in attributions(number):
            tried = [*values, how.schedule, how.micro_batch_size, how.reduction, granularity]
            seen.update(combinations(enumerate(tried), 2))
    axes = [*TRAININGS.values(), SCHEDULES, MICRO_BATCHES, REDUCTIONS, GRANULARITIES]
    for (i, one), (j, other) in combinations(enumerate(axes), 2):
        for pair in product(one, other):
            assert seen[(i, pair[0]), (j, pair[1])] > 0
    # Those that are likely to interact: all of them together.
    together: set[tuple[Any, ...]] = set()
    for number, values in enumerate(product(*TRAININGS.values())):
        for how, _ in attributions(number):
            together.add((values[0], values[1], values[3], how.micro_batch_size))
    assert len(together) == 2 * 3 * 2 * 3
