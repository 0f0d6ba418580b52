"""Cost of training and replaying LoRA adapters, relative to the whole model.

``python -m benchmarks.bench_lora [--model FOLDER] [--attention NAME …]`` times a training
step and the replay of one and of eight queries, alternately for the whole model and its adapters,
in processor time of one thread, which other load affects least. It prints the medians of the ratios
within a round, the bytes of a stored state and gradient, and the peak memory of a separate process
for each measurement.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_step import ROWS, TOKENS, Subject, peak_of
from engine.runs.config import LoraConfig

QUERIES = (1, 8)
WHOLE = "whole model"


def subjects(attention: list[str], rank: int) -> dict[str, LoraConfig | None]:
    """The adapters to train, by printed name; None is the whole model."""
    layers = {"attention": attention, "every linear layer": ["all-linear"]}
    adapters = {
        name: LoraConfig(rank=rank, alpha=2 * rank, target_modules=tuple(names))
        for name, names in layers.items()
    }
    return {WHOLE: None, **adapters}


def work_of(subject: Subject) -> dict[str, Callable[[], Callable[[], Any]]]:
    """The timed work of one model: by name, a function that sets it up."""
    replays = {f"replay, {n} queries": (lambda n=n: subject.replay(n)) for n in QUERIES}
    return {"train": subject.train, **replays}


def stored_bytes(subject: Subject) -> tuple[int, int]:
    """Bytes of a stored train state and of a stored gradient."""
    gradient = sum(p.numel() * p.element_size() for p in subject.state.params.values())
    leaves = subject.step.stage.state_tensors(subject.state.optimizer).values()
    return gradient + sum(leaf.numel() * leaf.element_size() for leaf in leaves), gradient


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Time all work alternately for several rounds, and print a line for each."""
    every, ready, subjects_by_name = subjects(options.attention, options.rank), {}, {}
    for number, (name, lora) in enumerate(every.items()):
        subject = Subject(options.model, folder / str(number), (), lora)
        subjects_by_name[name] = (subject, *stored_bytes(subject))
        for work, set_up in work_of(subject).items():
            ready[name, work] = set_up()
            ready[name, work]()
    times: dict[tuple[str, str], list[float]] = {key: [] for key in ready}
    for _ in range(options.rounds):
        for key, run in ready.items():
            began = time.process_time()
            run()
            times[key].append(time.process_time() - began)
    for name, (subject, state, gradient) in subjects_by_name.items():
        subject.writer.close(complete=False)
        count = sum(p.numel() for p in subject.state.params.values())
        print(f"\n{name}: {count:,} trained, state {state:,} bytes, gradient {gradient:,} bytes")
        for work in work_of(subject):
            own, whole = times[name, work], times[WHOLE, work]
            ratios = [a / b for a, b in zip(own, whole, strict=True)]
            spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
            seconds, ratio = statistics.median(own), statistics.median(ratios)
            peak = _peak(options, name, work)
            print(f"  {work:18}{seconds:8.3f} s{ratio:7.2f}{spread:>12}{peak:8.0f} MB", flush=True)


def _peak(options: argparse.Namespace, name: str, work: str) -> float:
    """Peak memory in MB above the loaded model, of a process that does one work twice."""
    command = [sys.executable, "-m", "benchmarks.bench_lora", *sys.argv[1:]]
    command += ["--case", name, work]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(output.split()[-1])


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of a pretrained model")
    parser.add_argument("--attention", nargs="+", default=["c_attn"], help="names of its layers")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", nargs=2, help="do one thing and print its peak memory")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.case:
            name, work = options.case
            lora = subjects(options.attention, options.rank)[name]
            subject = Subject(options.model, Path(folder), (), lora)
            print(peak_of(work_of(subject)[work]))
            if work == "train":
                subject.writer.close(complete=False)
            return
        print(f"{ROWS} rows of {TOKENS} tokens a step, AdamW; ratios to the {WHOLE}")
        measure(options, Path(folder))


if __name__ == "__main__":
    main()
