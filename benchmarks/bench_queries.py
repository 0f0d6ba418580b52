"""The cost of a replayed step with many queries.

``python -m benchmarks.bench_queries [--model FOLDER]`` times a replayed step of 8, 32 and 128
queries against a step of a plain training loop, interleaved, and prints a profile for 8 queries.
More queries than ``--at-once`` take several passes.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.bench_step import Subject

QUERIES = (8, 32, 128)
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear"),
    "softmax and exp": ("softmax", "aten::exp", "logsumexp"),
    "memory": ("aten::copy_", "aten::empty", "aten::cat", "aten::fill_", "aten::zero_"),
    "indexing": ("aten::index", "aten::embedding", "aten::scatter", "aten::gather"),
}


def cost(model: str | None, rounds: int, most: int) -> None:
    """Time steps of many queries and of plain training alternately."""
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(model, Path(folder))
        fit = min(most, _fit(subject))
        plain = subject.plain()
        sizes = {min(queries, fit) for queries in QUERIES}
        steps = {size: subject.replay(size) for size in sorted(sizes)}
        ratios: dict[int, list[float]] = {queries: [] for queries in QUERIES}
        for number in range(rounds + 1):
            for queries in QUERIES:
                step, passes = steps[min(queries, fit)], math.ceil(queries / fit)
                a_query = _against(plain, step, passes) / queries
                if number:
                    ratios[queries].append(a_query)
        print(f"a plain step: {_seconds(plain):.3f} s; {rounds} rounds", flush=True)
        print(f"{'queries':>8}{'passes':>9}{'ratio a query':>15}{'range':>14}")
        for queries, ratio in ratios.items():
            spread = f"{min(ratio):.2f}–{max(ratio):.2f}"
            passed = f"{math.ceil(queries / fit)} × {min(queries, fit)}"
            print(f"{queries:8}{passed:>9}{statistics.median(ratio):15.2f}{spread:>14}")
        where_time_goes(subject, min(8, fit))


def _against(plain: Callable[[], Any], step: Callable[[], Any], passes: int) -> float:
    """Seconds of all passes over those of a plain step, which is timed around each pass."""
    took, beside = 0.0, [_seconds(plain)]
    for _ in range(passes):
        took += _seconds(step)
        beside.append(_seconds(plain))
    return took / statistics.fmean(beside)


def where_time_goes(subject: Subject, queries: int) -> None:
    """Shares of a replayed step: the optimizer, and the model's second derivative by operation."""
    step = subject.replay(queries)
    step()
    with profile(activities=[ProfilerActivity.CPU]) as measured:
        step()
    with profile(activities=[ProfilerActivity.CPU]) as alone:
        subject.vjp(queries)()
    totals = dict.fromkeys([*KINDS, "elementwise and rest"], 0.0)
    for event in measured.key_averages():
        totals[_kind(event.key)] += event.self_cpu_time_total
    optimizer = sum(event.self_cpu_time_total for event in alone.key_averages())
    whole = sum(totals.values())
    totals["elementwise and rest"] -= optimizer
    totals["of these, the optimizer's"] = optimizer
    for name, spent in totals.items():
        print(f"  {name:28}{100 * spent / whole:5.0f} %")


def _fit(subject: Subject) -> int:
    """Queries whose cotangents, directions and products take half of the free memory."""
    size = sum(p.numel() * p.element_size() for p in subject.state.params.values())
    return max(1, int(0.5 * psutil.virtual_memory().available / (6 * size)))


def _kind(operation: str) -> str:
    for kind, parts in KINDS.items():
        if any(part in operation for part in parts):
            return kind
    return "elementwise and rest"


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of a pretrained model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=32, help="most queries of a pass")
    options = parser.parse_args()
    torch.manual_seed(0)
    cost(options.model, options.rounds, options.at_once)


if __name__ == "__main__":
    main()
