"""The cost of training and replay as ratios to a plain torch.optim loop on the same machine.

``python -m benchmarks.bench_step [--model FOLDER]`` interleaves all measurements, repeats
them, and prints medians of the ratios within a round. Peak memory is measured in a separate
process. Without ``--model`` only the model from scratch is measured.
"""

import argparse
import copy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config

from benchmarks import mechanisms
from engine.models.causal_lm_loss import CausalLMLoss
from engine.models.lora import add_adapters
from engine.replay.checkpointing import checkpointing_schedule
from engine.replay.optimizers import LearningRateSpec, OptimizerSpec, build_optimizer
from engine.replay.state import Batch, Cotangent
from engine.runs.config import LoraConfig
from engine.training.trainer import Trainer
from engine.trajectory.writer import TrajectoryWriter

ROWS, TOKENS, MANY = 8, 128, 8
RATE = 1e-4
MECHANISMS = (
    "chunked head, cached",
    "chunked head, recomputed",
    "full logits",
    "forward over reverse",
    "vmapped",
)


class Subject:
    """One model and the work that is timed on it."""

    def __init__(
        self,
        model_path: str | None,
        folder: Path,
        mechanisms: tuple[str, ...] = MECHANISMS,
        lora: LoraConfig | None = None,
    ) -> None:
        self.mechanisms = mechanisms
        torch.manual_seed(0)
        self.model = _model(model_path)
        if lora is not None:
            add_adapters(self.model, lora, 0, str(model_path))
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        ids = torch.randint(3, vocabulary, (ROWS, TOKENS))
        self.batch = Batch(
            {"input_ids": ids, "labels": ids}, torch.ones(ROWS, TOKENS), ROWS * (TOKENS - 1)
        )
        optimizer = build_optimizer(
            OptimizerSpec("adamw", RATE, eps_root=1e-8), LearningRateSpec("constant", 10)
        )
        self.trainer, self.state = Trainer.initialize(
            CausalLMLoss(self.model), optimizer, elementwise=True
        )
        self.folder = folder
        self.step = self.trainer.step

    def plain(self) -> Callable[[], Any]:
        """A step of an ordinary training loop."""
        model = copy.deepcopy(self.model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)

        def run() -> None:
            optimizer.zero_grad()
            model(**self.batch.inputs).loss.backward()
            optimizer.step()

        return run

    def train(self) -> Callable[[], Any]:
        """A training step of magic that also writes its gradient to disk."""
        schedule = checkpointing_schedule("gradients", 10**6)
        writer = TrajectoryWriter(self.folder / "written", schedule, self.step.stage)
        self.writer = writer
        steps = iter(range(10**6))

        def run() -> None:
            _, grads, _ = self.step.advance(self.state, self.batch)
            writer.write_gradient(next(steps), grads)

        return run

    def replay(self, queries: int) -> Callable[[], Any]:
        """Propagate some cotangents through one step, with its gradient read from disk."""
        folder = self.folder / f"read-{queries}"
        with TrajectoryWriter(
            folder, checkpointing_schedule("gradients", 1), self.step.stage
        ) as writer:
            writer.write_state(self.state)
            after, grads, _ = self.step.advance(self.state, self.batch)
            writer.write_gradient(0, grads)
            writer.write_state(after)
        template = self.state.params
        reader = self.trainer.open(folder)
        cotangents = [
            Cotangent(
                {name: torch.randn_like(p) for name, p in template.items()},
                self.step.stage.zero_cotangent(template, self.state.optimizer),
            )
            for _ in range(queries)
        ]

        def run() -> None:
            grads = reader.load_gradient(0)
            assert grads is not None
            self.step.vjp(self.state, grads, self.batch, cotangents)

        return run

    def vjp(self, queries: int) -> Callable[[], Any]:
        """The optimizer's part of a replayed step alone."""
        params, optimizer = self.state.params, self.state.optimizer
        _, grads = self.step.gradient(self.state, self.batch)
        cotangents = [
            Cotangent(
                {name: torch.randn_like(p) for name, p in params.items()},
                self.step.stage.zero_cotangent(params, optimizer),
            )
            for _ in range(queries)
        ]
        return lambda: self.step.stage.vjp(params, optimizer, grads.params, cotangents)

    def mechanism(self, name: str, queries: int) -> Callable[[], Any]:
        """One way to take second derivatives, without the optimizer."""
        params, batch = self.state.params, self.batch
        directions = [{n: torch.randn_like(p) for n, p in params.items()} for _ in range(queries)]
        build: dict[str, Callable[[], mechanisms.Mechanism]] = {
            "chunked head, cached": lambda: mechanisms.shared_graph(
                self.trainer.loss, params, batch
            ),
            "chunked head, recomputed": lambda: mechanisms.shared_graph(
                Trainer.initialize(CausalLMLoss(self.model, 0), _nothing())[0].loss, params, batch
            ),
            "full logits": lambda: mechanisms.shared_graph(
                mechanisms.plain_logits_loss(self.model), params, batch
            ),
            "forward over reverse": lambda: mechanisms.forward_over_reverse(
                self.model, params, batch
            ),
            "vmapped": lambda: mechanisms.vmapped(self.model, params, batch),
            "compiled": lambda: mechanisms.compiled(self.model, params, batch),
        }
        way = build[name]()
        return lambda: way(directions)


Cases = dict[str, tuple[Callable[[], Callable[[], Any]], int]]
PLAIN = "plain loop"


def cases(subject: Subject) -> Cases:
    """The timed work: how to set it up, and its number of queries."""
    product: Cases = {
        PLAIN: (subject.plain, 1),
        "train": (subject.train, 1),
        "replay 1 query": (lambda: subject.replay(1), 1),
        f"replay {MANY} queries": (lambda: subject.replay(MANY), MANY),
    }
    for name in subject.mechanisms:
        # Compiled code handles one direction at a time.
        for queries in (1,) if name == "compiled" else (1, 4):
            product[f"{name}, {queries}"] = (
                lambda name=name, queries=queries: subject.mechanism(name, queries),
                queries,
            )
    return product


def measure(model_path: str | None, rounds: int, mechanisms: tuple[str, ...]) -> None:
    """Time magic and then the mechanisms, each against the plain loop, and print tables."""
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(model_path, Path(folder), mechanisms)
        every = cases(subject)
        product = [name for name in every if name.rpartition(",")[0] not in mechanisms]
        # The cases of magic are few and quick, so more rounds are run.
        time_alternating(every, product, 2 * rounds + 1, model_path)
        subject.writer.close(complete=False)
        time_alternating(
            every, [PLAIN, *(name for name in every if name not in product)], rounds, model_path
        )


def time_alternating(every: Cases, names: list[str], rounds: int, model_path: str | None) -> None:
    """Time cases alternately, several rounds, and print medians of the ratios within a round."""
    ready: dict[str, Callable[[], Any]] = {}
    failed: dict[str, str] = {}
    for name in names:
        print(f"setting up: {name}", file=sys.stderr)
        try:
            run = every[name][0]()
            run()
            ready[name] = run
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:70]}"
    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(rounds):
        for name, run in ready.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    plain = times[PLAIN]
    print(f"plain loop: {statistics.median(plain):.3f} s a step, {rounds} rounds")
    print(f"{'':34}{'ratio a query':>14}{'range':>16}{'peak MB':>9}")
    for name in names:
        if name in failed:
            print(f"{name:34}{failed[name]}")
            continue
        queries = every[name][1]
        ratios = [a / b / queries for a, b in zip(times[name], plain, strict=True)]
        spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
        peak = peak_memory(model_path, name)
        print(f"{name:34}{statistics.median(ratios):14.2f}{spread:>16}{peak:9.0f}", flush=True)


def peak_memory(model_path: str | None, case: str) -> float:
    """Peak MB above the loaded model, of a process that runs one case twice."""
    command = [sys.executable, "-m", "benchmarks.bench_step", "--case", case]
    if model_path is not None:
        command += ["--model", model_path]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(output.split()[-1])


def run_case(model_path: str | None, case: str) -> None:
    """Run one case and print its peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(model_path, Path(folder), (*MECHANISMS, "compiled"))
        peak = peak_of(cases(subject)[case][0])
        if case == "train":
            subject.writer.close(complete=False)
        print(peak)


def peak_of(set_up: Callable[[], Callable[[], Any]], times: int = 2) -> float:
    """Peak MB of calling a function several times in this process."""
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    run = set_up()
    for _ in range(times):
        run()
    return (_resident("VmHWM") - before) / 1000


def _resident(field: str) -> int:
    """Kilobytes of resident memory, now (VmRSS) or at its peak (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(field)))


def _model(path: str | None) -> Any:
    if path is not None:
        return AutoModelForCausalLM.from_pretrained(
            path, attn_implementation="eager", dtype=torch.float32
        ).eval()
    config = GPT2Config(
        vocab_size=8192, n_positions=TOKENS, n_embd=256, n_layer=4, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def _nothing() -> Any:
    return build_optimizer(OptimizerSpec("sgd", RATE), LearningRateSpec("constant", 1))


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of a pretrained model to measure first")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--compiled", action="store_true", help="include cases that take minutes to compile"
    )
    parser.add_argument("--case", help="run one case and print its peak memory")
    options = parser.parse_args()
    if options.case:
        run_case(options.model, options.case)
        return
    print(f"{ROWS} rows of {TOKENS} tokens a step, AdamW, {torch.get_num_threads()} threads")
    for path in [options.model, None] if options.model else [None]:
        print(f"\n{path or 'GPT-2 from scratch (4 layers, width 256, 8,192 tokens)'}")
        measure(path, options.rounds, (*MECHANISMS, *(["compiled"] if options.compiled else [])))


if __name__ == "__main__":
    main()
