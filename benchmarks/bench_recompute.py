"""Memory and time of activation checkpointing.

``python -m benchmarks.bench_recompute [--model FOLDER]`` measures a replayed step of SGD with
one graph of a whole micro-batch and with one layer's graph at a time, for rows of several lengths,
all of a step at once or one at a time. Every case runs in a separate process: processor time of one
thread, and peak memory above the loaded model. Ratios are to one graph of all rows.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config

from benchmarks.bench_step import _nothing, peak_of
from engine.models.causal_lm_loss import CausalLMLoss
from engine.models.layers import layers_of
from engine.replay.state import Batch, Cotangent
from engine.replay.train_step import TrainStep
from engine.training.trainer import Trainer


@dataclass(frozen=True)
class Case:
    """One case: rows of a length in micro-batches; ``what`` is a replay or a gradient."""

    tokens: int
    rows: int
    at_once: int
    recompute: bool
    queries: int
    what: str = "replay"

    def __str__(self) -> str:
        way = "by layer" if self.recompute else "one graph"
        return f"{self.rows}×{self.tokens}, {self.at_once} at once, {way}, {self.queries} q"


def cases(lengths: list[int], queries: list[int], what: str) -> list[Case]:
    """All lengths and numbers of queries, with whole and single-row micro-batches, both ways."""
    combinations = []
    for tokens in lengths:
        rows = max(1, 1024 // tokens)
        for query_count in queries:
            sizes = [rows, 1] if rows > 1 else [1]
            for recompute in (False, True):
                combinations += [
                    Case(tokens, rows, size, recompute, query_count, what) for size in sizes
                ]
    return combinations


def prepared(model: Any, case: Case) -> Callable[[], Any]:
    """One replayed step, or one gradient."""
    torch.manual_seed(1)
    layers = layers_of(model) if case.recompute else ()
    trainer, state = Trainer.initialize(
        CausalLMLoss(model),
        _nothing(),
        micro_batch_size=case.at_once,
        elementwise=True,
        activation_checkpointing=layers,
    )
    step: TrainStep = trainer.step
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(3, vocabulary, (case.rows, case.tokens))
    weights = torch.ones(case.rows, case.tokens)
    batch = Batch({"input_ids": ids, "labels": ids}, weights, case.rows * (case.tokens - 1))
    if case.what == "gradient":
        return lambda: step.gradient(state.params, batch)
    grads = {name: torch.zeros_like(p) for name, p in state.params.items()}
    cotangents = [
        Cotangent(
            {name: torch.randn_like(p) for name, p in state.params.items()},
            step.stage.zero_cotangent(state.params, state.optimizer),
        )
        for _ in range(case.queries)
    ]
    return lambda: step.vjp(state, grads, batch, cotangents)


def _model(path: str | None) -> Any:
    if path is not None:
        return AutoModelForCausalLM.from_pretrained(
            path, attn_implementation="eager", dtype=torch.float32
        ).eval()
    config = GPT2Config(
        vocab_size=8192, n_positions=1024, n_embd=384, n_layer=12, n_head=6,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def measured(model: Any, case: Case, rounds: int) -> tuple[float, float]:
    """Median seconds, and peak MB."""
    times: list[float] = []

    def timed() -> Callable[[], Any]:
        run = prepared(model, case)

        def repeated() -> None:
            began = time.process_time()
            run()
            times.append(time.process_time() - began)

        return repeated

    peak = peak_of(timed, rounds)
    return statistics.median(times), peak


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of a pretrained model; else GPT-2 from scratch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 1024])
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--what", default="replay", choices=["replay", "gradient"])
    parser.add_argument("--case", type=int, help="measure this case only")
    options = parser.parse_args()
    every = cases(options.lengths, options.queries, options.what)
    if options.case is not None:
        torch.set_num_threads(1)
        print(*measured(_model(options.model), every[options.case], options.rounds))
        return
    print(f"{'':40}{'seconds':>9}{'ratio':>7}{'peak MB':>9}")
    for number, case in enumerate(every):
        command = [sys.executable, "-m", "benchmarks.bench_recompute", *sys.argv[1:]]
        command += ["--case", str(number)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        seconds, peak = map(float, printed.split())
        if case.at_once == case.rows and not case.recompute:
            base = seconds
        print(f"{case!s:40}{seconds:9.2f}{seconds / base:7.2f}{peak:9.0f}", flush=True)


if __name__ == "__main__":
    main()
