"""Run magic on a problem: a run, or further queries of its trajectory, by ``magic-worker``."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks.peer.measured import Marks, write_measured
from benchmarks.peer.problem import IN_ORDER, Problem, read_problem, tokens_of

RUN = "run"


def config_of(
    problem: Problem, folder: Path, queries: Path, budget_gb: float | None
) -> dict[str, Any]:
    """The run config; other keys have their defaults, the checkpointing included."""
    names = ("learning_rate", "betas", "eps", "eps_root", "weight_decay")
    optimizer = {name: getattr(problem, name) for name in names}
    model: dict[str, Any] = {"path": str(folder / "model"), "dtype": problem.dtype}
    if problem.lora_rank:
        model["lora"] = {
            "rank": problem.lora_rank,
            "alpha": 2 * problem.lora_rank,
            "target_modules": list(problem.lora_modules),
        }
    return {
        "seed": problem.seed,
        "model": model,
        "data": {"path": str(folder / IN_ORDER), "sequence_length": problem.tokens},
        "training": {
            "batch_size": problem.batch_size,
            "shuffle": False,
            "optimizer": {**optimizer, "betas": list(problem.betas)},
            "lr_schedule": {"name": "linear"},
        },
        "queries": {"path": str(queries)},
        "attribution": {"memory_budget_gb": budget_gb},
    }


def command(options: argparse.Namespace) -> list[str]:
    """The worker's arguments."""
    out, queries = options.out, options.queries
    if options.action == "attribute":
        request = json.dumps({"queries": {"path": str(queries)}})
        return ["attribute", "--run", str(out / RUN), "--request", request]
    file = out / "config.yaml"
    problem = read_problem(options.folder)
    file.write_text(yaml.safe_dump(config_of(problem, options.folder, queries, options.budget_gb)))
    return ["run", "--config", str(file), "--runs", str(out), "--id", RUN]


def note_phases(marks: Marks) -> None:
    """Record the time at which each phase of the worker begins."""
    from engine.attribution.reporting import Reporter

    report_phase: Callable[..., None] = Reporter.phase

    def phase(self: Reporter, name: Any, *arguments: Any) -> None:
        marks(str(name))
        report_phase(self, name, *arguments)

    Reporter.phase = phase  # type: ignore[method-assign]


def read_scores(folder: Path, out: Path) -> Any:
    """(query, row, token) scores of the latest attribution; the rows are those of the problem."""
    import numpy as np

    from engine.runs.run_folder import RunFolder
    from engine.runs.score_store import ScoreReader, find_attribution
    from engine.runs.tables import RowTable

    run = RunFolder(out / RUN)
    table = RowTable(run.rows_store)
    ids, real = table.input_ids(), table.document_ids() >= 0
    rows = [row[mask].tolist() for row, mask in zip(ids, real, strict=True)]
    assert rows == tokens_of(folder, folder / IN_ORDER), "the run trains on other tokens"
    scores = ScoreReader(find_attribution(run.attributions))
    return np.stack([scores.token_scores(query) for query in range(scores.queries)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["run", "attribute"])
    parser.add_argument("folder", type=Path, help="of the problem")
    parser.add_argument("queries", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--budget-gb", type=float, help="memory of a replay")
    options = parser.parse_args()
    marks = Marks()
    note_phases(marks)
    from engine.worker.main import main as work

    code = work(command(options))
    marks("end")
    if code:
        sys.exit(code)
    write_measured(options.out, marks, read_scores(options.folder, options.out), options.device)


if __name__ == "__main__":
    main()
