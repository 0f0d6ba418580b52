"""Scores equal finite differences of retrainings with changed data weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine import CausalLMLoss
from tests.exactness.attributing import Attribution, Problem, attribute, make_trainer
from tests.exactness.cases import Layout, document_weights, make_data, make_queries, make_training
from tests.exactness.conftest import Agree
from tests.exactness.tiny_models import tiny_model

SMALL = 3e-5
"""A central difference is off by about its square, and by the rounding of φ divided by it."""
BOUND = 1e-6
CHANGED = 3
SETTINGS: list[tuple[str, str, Layout, bool, Attribution]] = [
    ("gpt2 tied", "adamw", "packed", True, Attribution("log", 2)),
    ("llama untied", "sgd", "rows", True, Attribution("gradients")),
    ("gemma tied", "adam", "packed", False, Attribution("sqrt", 1)),
]


def losses_after_training(problem: Problem, how: Attribution, model: Any) -> Tensor:
    """The query losses that transformers itself reports for the retrained model."""
    trainer, start = make_trainer(problem.loss, problem.training, how)
    final = trainer.train(start, problem.stream()).params
    losses = []
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(final[f"model.{name}"])
        for row in make_queries().rows[:2]:
            ids, labels = (torch.as_tensor(row[name])[None] for name in ("input_ids", "labels"))
            losses.append(model(input_ids=ids, labels=labels, use_cache=False).loss)
    return torch.stack(losses)


@pytest.mark.parametrize(
    ("setting", "granularity"),
    [
        (SETTINGS[0], "token"),
        (SETTINGS[1], "document"),
        pytest.param(SETTINGS[2], "token", marks=pytest.mark.slow),
        pytest.param(SETTINGS[2], "document", marks=pytest.mark.slow),
    ],
)
def test_scores_are_differences_of_retrainings(
    setting: tuple[str, str, Layout, bool, Attribution],
    granularity: str,
    agree: Agree,
    tmp_path: Path,
) -> None:
    name, optimizer, layout, clip, how = setting
    data, judge = make_data(layout), tiny_model(name)
    each = document_weights(data)
    weights = each if granularity == "document" else data.token_weights(each)
    training = make_training(optimizer, "one_cycle", clip)
    problem = Problem(CausalLMLoss(tiny_model(name)), data, training, weights)
    scores = attribute(problem, how, tmp_path).weights.flatten(1)

    # From the median to the largest; differences of smaller ones are lost in rounding.
    ranked = scores[0].abs().argsort()
    ranked = ranked[scores[0][ranked] != 0]
    chosen = ranked[torch.linspace(len(ranked) // 2, len(ranked) - 1, CHANGED).long()]
    differences = []
    for index in chosen:
        losses = []
        for shift in (SMALL, -SMALL):
            changed = weights.clone()
            changed.view(-1)[index] += shift
            losses.append(losses_after_training(replace(problem, weights=changed), how, judge))
        differences.append((losses[0] - losses[1]) / (2 * SMALL))
    # One row a weight: each of them has to agree, not only the large ones.
    agree(
        f"finite differences, {granularity}", scores[:, chosen].t(), torch.stack(differences), BOUND
    )
