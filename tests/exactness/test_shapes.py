"""Rows, documents, labels and weights that do not fit are refused; a stream is known again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torchopt
from torch import Tensor, nn

from engine import CausalLMLoss, DataStream, Trainer, weighted_causal_lm_ce
from engine.replay.checkpointing import CheckpointingKind
from engine.runs.errors import RunError, UsageError
from engine.runs.manifest import MANIFEST, read_manifest
from engine.training.trainer import Scores
from tests.exactness.tiny_models import tiny_model

ROWS = [[3, 4], [5, 6, 7, 8], [9, 10, 11, 12, 13, 14], [15, 16, 17]]
Rows = list[dict[str, Any]]


def rows_of(width: int | None) -> Rows:
    """One document a row, its id once for every token or ``width`` times."""
    return [
        {"input_ids": np.array(ids), "doc_ids": [row] * (width or len(ids))}
        for row, ids in enumerate(ROWS)
    ]


def attributed(stream: DataStream, folder: Path) -> Scores:
    trainer, state = Trainer.initialize(CausalLMLoss(tiny_model("gpt2 tied")), torchopt.sgd(0.5))
    trainer.train(state, stream, save_dir=folder)
    return trainer.backward(folder, stream, DataStream([{"input_ids": np.array(ROWS[2])}], 1))


def test_document_ids_beyond_a_row_belong_to_its_padding(tmp_path: Path) -> None:
    scores = [
        attributed(DataStream(rows, 2, weight_shape=(4,)), tmp_path / name).weights
        for name, rows in (
            ("a token", rows_of(None)),
            ("wide", rows_of(6)),
            ("wider", rows_of(9)),
            ("a row", [{**row, "doc_ids": n} for n, row in enumerate(rows_of(None))]),
            ("none", [{"input_ids": row["input_ids"]} for row in rows_of(None)]),
        )
    ]
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0], rtol=1e-12, atol=1e-14)


def changed(row: int, **columns: Any) -> Rows:
    rows = rows_of(None)
    rows[row] = {**rows[row], **columns}
    return rows


WRONG: dict[str, tuple[Rows, tuple[int, ...], str]] = {
    "labels": (
        changed(1, labels=[5, 6, 7]),
        (4,),
        r"row 1: labels of shape \(3,\) do not fit input_ids of shape \(4,\)",
    ),
    "attention mask": (changed(0, attention_mask=[1, 1, 1]), (4,), r"attention_mask of shape"),
    "fewer documents": (changed(2, doc_ids=[2, 2]), (4,), r"doc_ids of shape \(2,\) do not fit"),
    "two dims": (changed(0, doc_ids=[[0, 0]]), (4,), r"doc_ids of shape \(1, 2\)"),
    "no such document": (rows_of(None), (3,), r"doc_ids from .* to 3 cannot choose among 3"),
    "negative": (changed(0, doc_ids=[0, -2]), (4,), r"doc_ids from -2"),
    "a column short": (rows_of(None), (4, 5), r"weights of shape \(4, 5\) do not fit 4 rows of 6"),
    "a row short": (rows_of(None), (3, 6), r"weights of shape \(3, 6\) do not fit 4 rows"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name: str) -> None:
    rows, shape, sentence = WRONG[name]
    trainer, state = Trainer.initialize(CausalLMLoss(tiny_model("gpt2 tied")), torchopt.sgd(0.5))
    with pytest.raises(UsageError, match=sentence):
        trainer.train(state, DataStream(rows, 2, weight_shape=shape))


@pytest.mark.parametrize("way", ["ours", "transformers"])
def test_a_loss_that_is_called_with_other_shapes(way: str) -> None:
    ids, weights = torch.ones(2, 4, dtype=torch.long), torch.ones(2, 3)
    with pytest.raises(UsageError, match=r"weights\s+of shape \(2, 3\)"):
        if way == "ours":
            CausalLMLoss(tiny_model("gpt2 tied"))(ids, ids, weights, 6)
        else:
            weighted_causal_lm_ce(torch.zeros(2, 4, 5), ids, example_weight=weights)


class OfShape(nn.Module):
    """Losses of some shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return self.scale**2 * torch.ones(self.shape, dtype=self.scale.dtype)


@pytest.mark.parametrize(
    ("losses", "weights", "fits"),
    [
        ((2,), (2,), True),
        ((2, 3), (2,), True),
        ((2, 3), (2, 3), True),
        ((2, 2), (2, 3), True),
        ((2, 1), (2, 3), False),
        ((2, 4), (2, 3), False),
        ((2, 3), (2, 1), False),
        ((1,), (2,), False),
        ((2,), (2, 3), False),
    ],
)
def test_losses_and_weights(losses: tuple[int, ...], weights: tuple[int, ...], fits: bool) -> None:
    trainer, state = Trainer.initialize(OfShape(losses), torchopt.sgd(0.1))
    stream = DataStream([{"x": np.zeros(1)}] * 2, 2, weight_shape=weights)
    if fits:
        trainer.train(state, stream)
        return
    with pytest.raises(
        UsageError, match=r"losses of shape .* data weights of shape .* do not match"
    ):
        trainer.train(state, stream)


def reordered(stream: DataStream) -> None:
    stream.order = stream.order[::-1]


def reweighted(stream: DataStream) -> None:
    stream.weights[1] = 0.5


def edited(stream: DataStream) -> None:
    stream.dataset[2]["input_ids"][1] = 1


def relabelled(stream: DataStream) -> None:
    stream.dataset[1]["labels"] = np.array([5, 6, -100, 8])  # type: ignore[index]


OTHERS: dict[str, tuple[Callable[[DataStream], None], str]] = {
    "order": (reordered, "order of the rows"),
    "weights": (reweighted, "data weights"),
    "tokens": (edited, "rows"),
    "labels": (relabelled, "rows"),
}


@pytest.mark.parametrize(
    ("other", "schedule"), zip(OTHERS, get_args(CheckpointingKind), strict=True)
)
def test_another_stream_of_equal_length(
    other: str, schedule: CheckpointingKind, tmp_path: Path
) -> None:
    change, what = OTHERS[other]
    stream = DataStream(rows_of(None), 1, weight_shape=(4,))
    trainer, state = Trainer.initialize(CausalLMLoss(tiny_model("gpt2 tied")), torchopt.sgd(0.5))
    trainer.train(state, stream, save_dir=tmp_path, checkpointing=schedule)
    queries = DataStream(rows_of(None)[:1], 1)
    trainer.backward(tmp_path, stream, queries)
    # The same rows with weights for tokens are the same training.
    tokens = DataStream(rows_of(None), 1, weight_shape=(4, 6))
    trainer.backward(tmp_path, tokens, queries)
    change(stream)
    with pytest.raises(RunError, match=f"differs in its {what}; give the stream it was trained on"):
        trainer.backward(tmp_path, stream, queries)


def test_a_trajectory_without_digests_opens(tmp_path: Path) -> None:
    stream = DataStream(rows_of(None), 2, weight_shape=(4,))
    scores = attributed(stream, tmp_path)
    lines = (tmp_path / MANIFEST).read_bytes()
    manifest = read_manifest(tmp_path)
    assert manifest is not None and set(manifest.stream) == set(stream.digests())
    assert lines.count(b'"stream"') == 1
    from engine.runs.journal import JournalWriter, read_journal

    records = read_journal(tmp_path / MANIFEST)
    (tmp_path / MANIFEST).unlink()
    with_none = JournalWriter(tmp_path / MANIFEST)
    for record in records:
        facts = {k: v for k, v in record.items() if k not in ("event", "stream", "seq", "time")}
        with_none.append(record["event"], **facts)
    with_none.close()
    trainer, _ = Trainer.initialize(CausalLMLoss(tiny_model("gpt2 tied")), torchopt.sgd(0.5))
    again = trainer.backward(tmp_path, stream, DataStream([{"input_ids": np.array(ROWS[2])}], 1))
    assert torch.equal(again.weights, scores.weights)
