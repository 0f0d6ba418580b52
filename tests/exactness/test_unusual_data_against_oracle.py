"""Scores are exact where rows are masked, repeated or shared, and for modules of any other kind."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from engine import CausalLMLoss, DataStream, weighted_causal_lm_ce
from tests.exactness import oracle
from tests.exactness.attributing import (
    BOUND,
    Attribution,
    Problem,
    attribute,
    check,
    exact_language_model,
    make_trainer,
)
from tests.exactness.cases import Data, document_weights, make_data, make_training
from tests.exactness.conftest import Agree
from tests.exactness.tiny_models import tiny_model
from tests.pairwise import pairwise

MASKED_ROW = 3


def with_order(problem: Problem, steps: list[list[int]]) -> Problem:
    order = [np.array(step) for step in steps]
    rate = replace(problem.training.rate, steps=len(order))
    return replace(problem, training=replace(problem.training, order=order, rate=rate))


@pytest.mark.parametrize(
    ("optimizer", "kind", "micro_batch_size"),
    pairwise(("adamw", "sgd"), ("own head", "fused head", "transformers"), (1, None)),
)
def test_a_batch_with_nothing_to_predict(
    optimizer: str, kind: str, micro_batch_size: int | None, agree: Agree, tmp_path: Path
) -> None:
    data = make_data("rows")
    assert not data.tokens.targets[MASKED_ROW].any()
    model = tiny_model("phi head bias" if kind == "own head" else "gpt2 tied")
    loss: nn.Module = model
    if kind == "transformers":
        model.loss_function = weighted_causal_lm_ce
    else:
        loss = CausalLMLoss(model)
    weights = data.token_weights(document_weights(data))
    problem = Problem(loss, data, make_training(optimizer, clip=True), weights)
    problem = with_order(problem, [[0, MASKED_ROW], [MASKED_ROW], [2, 1], [MASKED_ROW, 4, 5], [6]])
    how = Attribution("log", micro_batch_size)
    check(agree, "a batch with nothing to predict", model, problem, how, tmp_path)


@pytest.mark.parametrize("granularity", ["token", "document"])
def test_a_row_twice_in_one_step(granularity: str, agree: Agree, tmp_path: Path) -> None:
    data, model = make_data("packed"), tiny_model("gpt2 tied")
    each = document_weights(data)
    weights = each if granularity == "document" else data.token_weights(each)
    problem = Problem(CausalLMLoss(model), data, make_training(), weights)
    problem = with_order(problem, [[0, 1, 0], [2, 2], [3, 4, 5], [6, 1]])
    check(agree, f"a row twice in a step, {granularity}", model, problem, Attribution(), tmp_path)


@pytest.mark.parametrize("named", [True, False])
def test_one_weight_a_row(named: bool, agree: Agree, tmp_path: Path) -> None:
    data, model = make_data("rows"), tiny_model("gpt2 tied")
    # Document ids one a row, in another order than the rows; or none, and rows are documents.
    owners = np.array([4, 1, 0, 2, 6, 5, 3]) if named else np.arange(7)
    rows = [{**row, "doc_ids": owners[i]} for i, row in enumerate(data.rows)]
    if not named:
        rows = [{k: row[k] for k in ("input_ids", "labels")} for row in data.rows]
    shared = torch.where(data.documents < 0, -1, torch.from_numpy(owners)[:, None])
    data = Data(data.tokens, shared, rows)
    problem = Problem(CausalLMLoss(model), data, make_training(), document_weights(data))
    check(agree, "one weight a row", model, problem, Attribution("sqrt", 2), tmp_path)


def test_scores_of_positions_without_loss_are_zero(tmp_path: Path) -> None:
    data, model = make_data("rows"), tiny_model("gpt2 tied")
    weights = data.token_weights(document_weights(data))
    problem = Problem(CausalLMLoss(model), data, make_training(), weights)
    scores = attribute(problem, Attribution(), tmp_path).weights
    assert not scores[:, ~data.tokens.targets].any()
    assert scores[:, data.tokens.targets].all()


@dataclass(frozen=True)
class Table:
    """Inputs (rows, features) and outputs (rows, …) of a regression."""

    x: Tensor
    y: Tensor

    def __getitem__(self, rows: NDArray[np.int64]) -> "Table":
        chosen = torch.from_numpy(rows)
        return Table(self.x[chosen], self.y[chosen])

    def __len__(self) -> int:
        return len(self.x)


class Regression(nn.Module):
    """A network with an unused parameter whose losses are one a row or one an output."""

    def __init__(self, outputs: int, a_row: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.first = nn.Parameter(torch.randn(5, 4, generator=generator, dtype=torch.float64))
        self.second = nn.Parameter(
            torch.randn(outputs, 5, generator=generator, dtype=torch.float64)
        )
        self.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.a_row = a_row

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        errors = (F.silu(x @ self.first.t()) @ self.second.t() - y).square()
        return errors.mean(dim=1) if self.a_row else errors


def regression_losses(a_row: bool, weight_ndim: int) -> oracle.LossesOf:
    """The same from its formula, with one loss a weight."""

    def losses(params: oracle.Params, table: Table) -> tuple[Tensor, int]:
        hidden = torch.einsum("rf,hf->rh", table.x, params["first"])
        out = torch.einsum("rh,oh->ro", hidden * torch.sigmoid(hidden), params["second"])
        errors = (out - table.y) ** 2
        if weight_ndim == 2:
            return errors, errors.numel()
        return (errors.mean(1) if a_row else errors.sum(1)), len(table)

    return losses


@pytest.mark.parametrize(("a_row", "weight_ndim"), [(True, 1), (False, 1), (False, 2)])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_regression(
    optimizer: str, a_row: bool, weight_ndim: int, agree: Agree, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    rows: list[dict[str, Any]] = [
        {"x": a.numpy(), "y": b.numpy()} for a, b in zip(x, y, strict=True)
    ]
    training, how = make_training(optimizer, "one_cycle"), Attribution("sqrt", 2)
    model = Regression(3, a_row)
    shape = (7, 3) if weight_ndim == 2 else (7,)
    weights = 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)

    stream = DataStream(rows[:7], 3, weight_shape=shape, order=training.order)
    stream.weights = weights
    trainer, start = make_trainer(model, training, how)
    trainer.train(start, stream, save_dir=tmp_path, checkpointing="sqrt")
    # The queries' weights are one a row, so their losses are summed over the outputs.
    ours = trainer.backward(tmp_path, stream, DataStream(rows[7:], 1))

    queries = regression_losses(a_row, 1)
    leaf = weights.clone().requires_grad_()
    start_leaves, order = oracle.leaves_of(model), training.order
    final = oracle.train(
        regression_losses(a_row, weight_ndim),
        start_leaves,
        Table(x[:7], y[:7]),
        [leaf] * len(order),
        training,
    )
    phi = queries(final, Table(x[7:], y[7:]))[0]
    expected = torch.stack([torch.autograd.grad(p, leaf, retain_graph=True)[0] for p in phi])
    agree("regression", ours.weights, expected, BOUND)
    torch.testing.assert_close(ours.query_losses, phi.detach(), rtol=1e-9, atol=0)


def test_document_scores_are_sums_of_token_scores(agree: Agree, tmp_path: Path) -> None:
    data, model = make_data("packed"), tiny_model("llama tied")
    each, how = document_weights(data), Attribution("log", 1)
    problem = Problem(CausalLMLoss(model), data, make_training(), data.token_weights(each))
    tokens = attribute(problem, how, tmp_path / "tokens").weights
    documents = attribute(replace(problem, weights=each), how, tmp_path / "documents").weights
    # As a reader of the stored scores adds them up.
    summed = torch.zeros_like(documents)
    known = data.documents.flatten() >= 0
    where = data.documents.flatten()[known].expand(len(tokens), -1)
    summed.scatter_add_(1, where, tokens.flatten(1)[:, known])
    agree("documents from tokens", documents, summed, 1e-12)
    truth = exact_language_model(model, data, data.token_weights(each), problem.training)
    exact = oracle.by_document(truth.weights[:2], data.documents, data.document_count)
    agree("documents from tokens, exact", summed, exact, BOUND)
