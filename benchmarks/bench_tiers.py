"""Time that a replay waits for its trajectory, by the size of the host cache.

``python -m benchmarks.bench_tiers [--steps 12] [--rounds 1]`` replays one trajectory of a
small GPT-2 for two queries, one pass each, from a simulated disk of 50 MB/s (every read sleeps) and
from the real disk (with its cache emptied first). Every case runs in a separate process, so that
its peak memory can be measured, and prints a digest of its scores; all digests must be equal.
"""

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoModelForCausalLM, GPT2Config

from engine import CausalLMLoss, DataStream, Trainer
from engine.replay.optimizers import LearningRateSpec, OptimizerSpec, build_optimizer
from engine.trajectory import files as trajectory_files
from engine.trajectory.host_cache import HostCache
from engine.trajectory.tensor_files import read_tensors

ROWS, TOKENS, VOCABULARY = 2, 64, 8192
SLOW = 50e6
"""Bytes a second of the slow disk."""
DISKS = ("slow", "real")
BUDGETS = {"off": 0.0, "2 states": 2.0, "4 states": 4.0, "all": 1e6, "all, after training": 1e6}
"""Size of the host cache, in train states."""


def make_trainer(steps: int) -> tuple[Trainer, Any, DataStream, DataStream]:
    torch.manual_seed(0)
    size = {"n_layer": 4, "n_embd": 256, "n_head": 4, "vocab_size": VOCABULARY}
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(**size, **none, bos_token_id=None, eos_token_id=None)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    optimizer = build_optimizer(
        OptimizerSpec("adamw", 1e-4, eps_root=1e-8), LearningRateSpec("constant", steps)
    )
    trainer, start = Trainer.initialize(CausalLMLoss(model), optimizer, elementwise=True)
    ids = torch.randint(3, VOCABULARY, (ROWS * steps + 2, TOKENS))
    rows = [{"input_ids": row, "labels": row} for row in ids]
    stream = DataStream(rows[:-2], ROWS, weight_shape=(len(rows) - 2,))
    return trainer, start, stream, DataStream(rows[-2:], 1)


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}


def empty_cache(folder: Path) -> None:
    """Drop the files from the system's cache."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def train(folder: Path, kind: Any, steps: int) -> None:
    trainer, start, stream, _ = make_trainer(steps)
    trainer.host_cache = HostCache(0)
    trainer.train(start, stream, save_dir=folder, checkpointing=kind)


def replay(folder: Path, kind: Any, steps: int, case: str, slow: bool) -> dict[str, Any]:
    """Facts of one case: seconds in all and waited, files read, peak memory, scores."""
    trainer, start, stream, queries = make_trainer(steps)
    state_bytes = max(sizes(folder).values())
    trainer.host_cache = HostCache(int(BUDGETS[case] * state_bytes))
    if case.endswith("after training"):
        folder = folder.with_name(f"{folder.name}-again")
        trainer.train(start, stream, save_dir=folder, checkpointing=kind)
    waited, reads = [], []

    def observe(event: str, /, **facts: Any) -> None:
        waited.append(facts.get("waited", 0.0))

    def read(folder: Path, facts: dict[str, Any]) -> Any:
        reads.append(facts["bytes"])
        if slow:
            time.sleep(facts["bytes"] / SLOW)
        return read_tensors(folder, facts)

    empty_cache(folder)
    began = time.perf_counter()
    with patch.object(trajectory_files, "read_tensors", read):
        scores = trainer.backward(folder, stream, queries, queries_per_pass=1, observer=observe)
    return {
        "seconds": time.perf_counter() - began,
        "waited": sum(waited),
        "read": sum(reads),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "scores": hashlib.sha256(scores.weights.numpy().tobytes()).hexdigest()[:12],
    }


def child(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.bench_tiers", *map(str, arguments)]
    measured: dict[str, Any] = json.loads(subprocess.check_output(command))
    return measured


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--schedules", nargs="+", default=["gradients", "all"])
    parser.add_argument("--one", nargs=4, metavar=("FOLDER", "KIND", "CASE", "DISK"))
    options = parser.parse_args()
    if options.one:
        folder, kind, case, disk = options.one
        if case == "train":
            train(Path(folder), kind, options.steps)
            print("{}")
            return
        print(json.dumps(replay(Path(folder), kind, options.steps, case, disk == "slow")))
        return
    with tempfile.TemporaryDirectory(dir=os.environ.get("MAGIC_RUNS")) as place:
        for kind in options.schedules:
            table(Path(place) / kind, kind, options.steps, options.rounds)


def table(folder: Path, kind: str, steps: int, rounds: int) -> None:
    """The cases of one schedule, alternating within a round; medians over the rounds."""
    child("--steps", steps, "--one", folder, kind, "train", "-")
    whole = sum(sizes(folder).values())
    print(f"\n{kind}: {steps} steps, {whole / 1e6:.0f} MB on disk, 2 passes\n")
    print("| disk | in memory | waited s | in all s | read MB | peak MB | scores |")
    print("|---|---|---|---|---|---|---|")
    cases = [(disk, case) for disk in DISKS for case in BUDGETS]
    of_case: dict[tuple[str, str], list[dict[str, Any]]] = {case: [] for case in cases}
    for _ in range(rounds):
        for disk, case in cases:
            of_case[disk, case].append(child("--steps", steps, "--one", folder, kind, case, disk))
            again = folder.with_name(f"{folder.name}-again")
            for file in again.glob("*"):
                file.unlink()
            if again.exists():
                again.rmdir()
    for (disk, case), facts in of_case.items():
        middle = {n: statistics.median(f[n] for f in facts) for n in facts[0] if n != "scores"}
        print(
            f"| {disk} | {case} | {middle['waited']:.1f} | {middle['seconds']:.1f} "
            f"| {middle['read'] / 1e6:.0f} | {middle['peak'] / 1e6:.0f} "
            f"| {' '.join(sorted({f['scores'] for f in facts}))} |"
        )


if __name__ == "__main__":
    main()
