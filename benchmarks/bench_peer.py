"""Compare magic with the peer, bergson 2.5.1: time, memory and error on the same problems.

``python -m benchmarks.bench_peer --peer PYTHON [--model FOLDER]``, where PYTHON is that of an
environment that contains the peer (``make bench-peer`` creates one). Every run is a separate
process; both sides alternate for several rounds. A ratio is the peer's value over ours within a
round: above 1, magic is better. Wall-clock and processor times are of whole processes, and from the
first training step to the scores on disk, without start, loading and planning. This process loads
no torch, because a child's peak memory starts at its parent's.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peer.problem import MORE, Problem, queries_file
from benchmarks.peer.sides import Sides, Taken

SHORT = {"batch_size": 2, "tokens": 24, "steps": 3, "queries": 3}
"""Problem sizes that fit the oracle, which stores the graphs of all steps."""
ORDERS = (0, 1, 2)
"""Seeds: float32 rounding differs with the order of the data."""
LEAST_GB = 1e-3
"""A memory budget with which magic replays one query at a time."""


def errors(sides: Sides, name: str, head: str, model: str | None) -> None:
    """Print the error of both sides against the oracle; in float32 the median over seeds."""
    distances: dict[str, list[list[float]]] = {"float64": [], "float32": []}
    for seed in ORDERS:
        problem = Problem(**SHORT, seed=seed)
        folder = sides.problem(f"{name}-{head}-short-{seed}", head, model, problem)
        queries = queries_file(folder, problem.queries)
        truth = sides.oracle(folder, queries)
        for dtype in distances if seed == ORDERS[0] else ["float32"]:
            replace(problem, dtype=dtype).write(folder)
            taken = [sides.ours(folder, queries), sides.theirs(folder, queries)]
            distances[dtype].append([_distance(side.scores, truth) for side in taken])
    for dtype, pairs in distances.items():
        ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"{name:12}{head:8}{dtype:10}{ours:12.1e}{theirs:12.1e}", flush=True)


def times(sides: Sides, name: str, head: str, model: str | None) -> None:
    """Print the cost of both sides for one query, for many, and for as many further ones."""
    options = sides.options
    problem = Problem(
        options.batch, options.tokens, options.steps, options.queries, **options.recipe
    )
    folder = sides.problem(f"{name}-{head}", head, model, problem)
    rows: dict[str, list[tuple[Taken, Taken]]] = {}
    for number in range(options.rounds):
        for row, ours, theirs in _round(sides, folder, problem.queries):
            rows.setdefault(row, []).append((ours, theirs))
            print(f"round {number + 1}, {head}, {row}: {ours.wall:.0f} s, {theirs.wall:.0f} s",
                  file=sys.stderr, flush=True)  # fmt: skip
    for row, pairs in rows.items():
        for what, field in (
            ("whole process, s", "wall"),
            ("  of the processor", "processor"),
            ("train to scores, s", "work_wall"),
            ("  of the processor", "work_processor"),
            ("peak memory, MB", "memory"),
        ):
            _print_row(f"{name} {head}", row, what, [
                (getattr(ours, field), getattr(theirs, field)) for ours, theirs in pairs
            ])  # fmt: skip
    apart = max(_distance(theirs.scores, ours.scores) for ours, theirs in rows["1 query"])
    if not options.lora:
        print(f"{name} {head}: their scores differ from ours by {apart:.1e}", flush=True)


def _round(sides: Sides, folder: Path, many: int) -> Iterator[tuple[str, Taken, Taken]]:
    one, several = queries_file(folder, 1), queries_file(folder, many)
    yield "1 query", sides.ours(folder, one), sides.theirs(folder, one)
    ours, more = sides.ours_twice(folder, several, queries_file(folder, many, MORE))
    theirs = sides.theirs(folder, several)
    yield f"{many} queries", ours, theirs
    # The peer has no command for further queries. Either train again, at the cost just measured,
    # or remove its old scores by hand and resume, which skips the training.
    yield f"{many} more", more, theirs
    yield f"{many} more, resumed", more, theirs.without_training
    # The peer replays one query at a time; magic does so when memory is short.
    yield f"{many}, least memory", sides.ours(folder, several, "--budget-gb", str(LEAST_GB)), theirs


def _print_row(name: str, row: str, what: str, pairs: Sequence[tuple[float, float]]) -> None:
    ratios = [theirs / ours for ours, theirs in pairs]
    spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(
        f"{name:20}{row:16}{what:20}{ours:9.1f}{theirs:9.1f}"
        f"{statistics.median(ratios):8.2f}{spread:>13}",
        flush=True,
    )


def _distance(scores: Any, truth: Any) -> float:
    """The largest relative error of any query's scores, by Euclidean norm."""
    errors = np.linalg.norm((scores - truth).reshape(len(truth), -1), axis=1)
    return float((errors / np.linalg.norm(truth.reshape(len(truth), -1), axis=1)).max())


def measure(options: argparse.Namespace) -> None:
    """Print the tables."""
    name = Path(options.model).name if options.model else "GPT-2"
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        sides = Sides(options, Path(folder))
        if not options.lora and not options.no_errors:
            print(f"{'relative error':30}{'ours':>12}{'theirs':>12}")
            for head in options.heads:
                errors(sides, name, head, options.model)
        print(
            f"\n{options.batch} rows of {options.tokens} tokens, {options.steps} steps, "
            f"{options.threads} threads, {options.rounds} rounds, {options.device}"
        )
        print(f"{'':56}{'ours':>9}{'theirs':>9}{'ratio':>8}{'range':>13}")
        for head in options.heads:
            times(sides, name, head, options.model)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, help="Python of the peer's environment")
    parser.add_argument("--model", help="folder of a model; default: a small GPT-2")
    parser.add_argument("--heads", nargs="+", default=["tied", "untied"])
    parser.add_argument("--text", type=Path, help="jsonl of texts to cut into documents")
    parser.add_argument("--tokens", type=int, default=128, help="most tokens of a document")
    parser.add_argument("--batch", type=int, default=2, help="documents per step")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--lora", nargs="+", help="train adapters: the rank, then names of layers")
    parser.add_argument("--peer-save-mode", choices=["sqrt", "all", "log"], default="sqrt")
    parser.add_argument(
        "--no-errors", action="store_true", help="skip the comparison with the oracle"
    )
    parser.add_argument("--work", help="folder for temporary models and trajectories")
    options = parser.parse_args()
    options.recipe = {}
    if options.lora:
        options.recipe = {"lora_rank": int(options.lora[0]), "lora_modules": options.lora[1:]}
    measure(options)


if __name__ == "__main__":
    main()
