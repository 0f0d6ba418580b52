"""Run the peer, ``bergson magic``, in its own environment; imports nothing of magic."""

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.peer.measured import Marks, write_measured
from benchmarks.peer.problem import TRAIN, Problem, order_of, read_problem, tokens_of

PRECISIONS = {"float32": "fp32", "float64": "fp64"}


def command(problem: Problem, folder: Path, queries: Path, out: Path, save_mode: str) -> list[str]:
    """The arguments of ``bergson magic``: one measurement per query, one score per token."""
    options = {
        "model": folder / "model",
        "precision": PRECISIONS[problem.dtype],
        "data.dataset": folder / TRAIN,
        "query.dataset": queries,
        "aggregation": "none",
        "batch_size": problem.batch_size,
        "seed": problem.seed,
        "lr": problem.learning_rate,
        "lr_scheduler_type": "linear",
        "adam_beta1": problem.betas[0],
        "adam_beta2": problem.betas[1],
        "adam_eps": problem.eps,
        "eps_root": problem.eps_root,
        "weight_decay": problem.weight_decay,
        "save_mode": save_mode,
        "wandb_project": "",
    }
    if problem.lora_rank:
        # A single name would be used as a regular expression.
        names = problem.lora_modules
        modules = "|".join(names) if len(names) > 1 else f".*{names[0]}"
        options["peft_init_kwargs"] = (
            f"r={problem.lora_rank},lora_alpha={2 * problem.lora_rank},target_modules={modules}"
        )
    named = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return ["magic", str(out / "run"), "--overwrite", "--attribute_tokens", *named]


def note_training(marks: Marks) -> None:
    """Record the times at which training begins and ends."""
    from bergson.magic.trainer import Trainer

    train = Trainer.train

    def noted(self: Any, *arguments: Any, **named: Any) -> Any:
        marks("train")
        state = train(self, *arguments, **named)
        marks("measure")
        return state

    Trainer.train = noted


def read_scores(problem: Problem, folder: Path, out: Path) -> Any:
    """(query, row, token) scores in the order of training."""
    import torch

    count = len(list((out / "run" / "per_query").glob("q*.pt")))
    scores = torch.stack([torch.load(out / "run" / "per_query" / f"q{q}.pt") for q in range(count)])
    rows = tokens_of(folder, folder / TRAIN)
    assert scores.shape[1:] == (len(rows), max(map(len, rows))), "the peer trains on other tokens"
    return scores[:, order_of(problem)].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the problem")
    parser.add_argument("queries", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save-mode", default="sqrt")
    options = parser.parse_args()
    problem, marks = read_problem(options.folder), Marks()
    from bergson.__main__ import main as bergson

    note_training(marks)
    words = command(problem, options.folder, options.queries, options.out, options.save_mode)
    sys.argv = ["bergson", *words]
    bergson()
    marks("end")
    scores = read_scores(problem, options.folder, options.out)
    write_measured(options.out, marks, scores, options.device)


if __name__ == "__main__":
    main()
