"""The true scores: autograd through the whole unrolled training in float64.

``python -m benchmarks.peer.oracle FOLDER QUERIES OUT``; see :mod:`tests.exactness.oracle`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks.peer.problem import IN_ORDER, Problem, read_problem, tokens_of
from engine.models.float64 import compute_in_float64
from engine.replay.optimizers import LearningRateSpec, OptimizerSpec
from tests.exactness import oracle


def tokens(folder: Path, file: Path) -> oracle.Tokens:
    """Rows padded to one width; every token but a row's last predicts the next."""
    rows = tokens_of(folder, file)
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return oracle.Tokens(ids, torch.arange(ids.shape[1]) < lengths[:, None] - 1)


def training(problem: Problem) -> oracle.Training:
    """One epoch over the rows in order."""
    optimizer = OptimizerSpec(
        "adamw",
        problem.learning_rate,
        problem.betas,
        problem.eps,
        problem.eps_root,
        problem.weight_decay,
    )
    rows = np.arange(problem.documents).reshape(problem.steps, problem.batch_size)
    return oracle.Training(optimizer, LearningRateSpec("linear", problem.steps), None, list(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(
        options.folder / "model", attn_implementation="eager", dtype=torch.float64
    ).eval()
    compute_in_float64(model)
    rows = tokens(options.folder, options.folder / IN_ORDER)
    truth = oracle.exact(
        oracle.language_model_losses(model),
        oracle.leaves_of(model),
        rows,
        torch.ones(rows.ids.shape, dtype=torch.float64),
        training(read_problem(options.folder)),
        tokens(options.folder, options.queries),
    )
    np.save(options.out / "scores.npy", truth.weights.numpy())


if __name__ == "__main__":
    main()
