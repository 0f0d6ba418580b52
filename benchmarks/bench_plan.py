"""Compare the predictions of ``magic plan`` with the run.

``python -m benchmarks.bench_plan [--model FOLDER] [--rounds N] [CASE …]`` plans, runs and plans
every case again, each in its own process. Ratios are predicted over measured; the prediction is the
mean of the two plans. ``drift`` is the second plan's seconds over the first's, and ``busy`` is the
share of the machine's processors that other programs used while planning and while running: on a
shared machine they separate noise from a wrong prediction.

``--processor`` measures processor time of one thread on one processor in place of wall-clock time,
for the plan and for the run. Other programs disturb it much less. It does not include the time of
the disk.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from engine.runs.atomic import size_on_disk
from engine.runs.config import as_plain
from engine.runs.events import Event, Phase
from engine.runs.read_config import read_config
from engine.runs.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "sample_configs"
SIZES = ("train", "after", "memory", "trajectory", "scores")
"""Compared values: seconds of training, seconds from its end to the scores, peak bytes of the
process, and bytes on disk of the trajectory and of the scores."""

STEPS = (Event.TRAIN_STEP, Event.REPLAY_STEP)

Config = dict[str, Any]
Figures = dict[str, float]


def cases(model: Config, folder: Path) -> dict[str, Config]:
    """The configs by name; ``model`` is fine-tuned in all but the demo and the last."""
    demo = as_plain(read_config(DEMO / "demo.yaml"))
    short, texts = folder / "short.jsonl", folder / "texts.jsonl"
    _write_texts(short, texts)
    query_texts = str(DEMO / "demo" / "queries.jsonl")
    queries = {"path": query_texts, "split": "train[:2]"}
    many = folder / "many.jsonl"
    many.write_text((DEMO / "demo" / "queries.jsonl").read_text() * 2)
    adamw = {"name": "adamw", "learning_rate": 1e-4, "weight_decay": 0.01}
    lora = {"rank": 8, "alpha": 16, "target_modules": _attention(model)}

    def config(data: Config, training: Config, schedule: str, **others: Any) -> Config:
        return {
            "model": model,
            "data": {"path": str(texts), **data},
            "training": {"optimizer": adamw, **training},
            "queries": queries,
            "trajectory": {"checkpointing": schedule},
            **others,
        }

    return {
        "demo": demo,
        "documents of many lengths": config(
            {"path": str(short), "sequence_length": 256}, {"batch_size": 4}, "gradients"
        ),
        "packed, all": config(
            {"packing": True, "sequence_length": 256, "split": "train[:60]"},
            {"batch_size": 4, "micro_batch_size": 2}, "all",
        ),
        "adapters": config(
            {"split": "train[:64]", "sequence_length": 256}, {"batch_size": 4}, "auto",
            model={**model, "lora": lora},
        ),
        "sgd, sqrt": config(
            {"split": "train[:48]", "sequence_length": 256},
            {"batch_size": 8, "optimizer": {"name": "sgd", "learning_rate": 1e-3, "momentum": 0.9}},
            "sqrt", queries={"path": query_texts, "split": "train[:1]"},
        ),
        "log, 8 queries by document": config(
            {"split": "train[:20]", "sequence_length": 256}, {"batch_size": 4}, "log",
            queries={"path": str(many)}, attribution={"granularity": "document"},
        ),
        "demo on two ranks": {
            **demo, "training": {**demo["training"], "epochs": 1}, "devices": {"ranks": 2},
        },
    }  # fmt: skip


def _write_texts(short: Path, texts: Path) -> None:
    """The demo's passages, and the same cut to lengths from 20 to 1,000 characters."""
    source = DEMO / "demo" / "passages.jsonl"
    passages = [json.loads(line)["text"] for line in source.read_text().splitlines()]
    texts.write_text("\n".join(json.dumps({"text": text}) for text in passages))
    whole, cut, place = " ".join(passages), [], 0
    for index in range(64):
        length = 20 + 980 * (index * 37 % 64) ** 2 // 63**2
        cut.append(whole[place : place + length])
        place += length
    short.write_text("\n".join(json.dumps({"text": text}) for text in cut))


def _attention(model: Config) -> list[str]:
    return ["c_attn"] if "from_scratch" in model else ["q_proj", "k_proj", "v_proj", "o_proj"]


def _small_model(folder: Path) -> Config:
    """A GPT-2 from scratch with the demo's tokenizer, used without ``--model``."""
    from transformers import AutoTokenizer, GPT2Config

    tokenizer = AutoTokenizer.from_pretrained(DEMO / "demo" / "model")
    tokenizer.save_pretrained(folder)
    GPT2Config(
        vocab_size=len(tokenizer), n_positions=256, n_embd=256, n_layer=4, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ).save_pretrained(folder)  # fmt: skip
    return {"path": str(folder), "from_scratch": True}


@dataclass
class Busy:
    """Share of the machine's processors that other programs used."""

    others: float = 0.0


@contextmanager
def watching_others() -> Iterator[Busy]:
    """Measure the processor time that was not used by this process's children."""
    busy, began = Busy(), _processor_seconds()
    start = time.monotonic()
    yield busy
    used, own = (after - before for after, before in zip(_processor_seconds(), began, strict=True))
    busy.others = max(0.0, used - own) / ((time.monotonic() - start) * (os.cpu_count() or 1))


def _processor_seconds() -> tuple[float, float]:
    """Processor seconds of the whole machine, and of this process's finished children."""
    times, own = psutil.cpu_times(), os.times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    return sum(times[:8]) - idle, own.children_user + own.children_system


ON_PROCESSOR = """
import os, runpy, sys, time
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
time.perf_counter = time.time = time.process_time
runpy.run_module("engine.worker", run_name="__main__", alter_sys=True)
"""
"""A worker whose clocks are replaced by the processor time of its process."""
WORKER = ["-P", "-m", "engine.worker"]


def worker(arguments: list[str]) -> dict[str, Any]:
    """Run a worker and return the facts that it prints."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "THP_MEM_ALLOC_ENABLE": "1"}
    if WORKER[0] == "-c":
        environment["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        command = [sys.executable, *WORKER, *arguments]
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment)
        process.wait()
        output.seek(0)
        answer = json.loads(output.read().splitlines()[-1])
        if not answer["ok"]:
            raise SystemExit(f"{' '.join(arguments)}: {answer['message']}")
    return dict(answer)


def predicted(file: Path, runs: Path) -> Figures:
    """The values that the plan predicts."""
    plan = worker(["plan", "--config", str(file), "--runs", str(runs)])
    [chosen] = [s for s in plan["schedules"] if s["name"] == plan["chosen"]]
    return {
        "train": chosen["train_seconds"],
        "after": chosen["replay_seconds"],
        "memory": chosen["memory_bytes"],
        "trajectory": chosen["disk_bytes"],
        "scores": plan.get("scores_bytes", float("nan")),
    }


def measured(file: Path, runs: Path, name: str) -> Figures:
    """The measured values of a run."""
    worker(["run", "--config", str(file), "--runs", str(runs), "--id", name])
    folder = RunFolder(runs / name)
    events = folder.events()
    began = {e["phase"]: e["time"] for e in events if e["event"] == Event.PHASE}
    [ended] = [e["time"] for e in events if e["event"] == Event.ATTRIBUTED]
    return {
        "train": began[Phase.MEASURE] - began[Phase.TRAIN],
        "after": ended - began[Phase.MEASURE],
        "memory": max(event.get("memory", 0) for event in events if event["event"] in STEPS),
        "trajectory": size_on_disk(folder.trajectory),
        "scores": size_on_disk(folder.attributions),
    }


@dataclass
class Round:
    """One run between two plans."""

    plans: tuple[Figures, Figures]
    run: Figures
    busy: tuple[float, float]
    predicted: Figures = field(init=False)

    def __post_init__(self) -> None:
        first, second = self.plans
        self.predicted = {name: (first[name] + second[name]) / 2 for name in SIZES}

    @property
    def ratios(self) -> Figures:
        """Predicted over measured."""
        return {name: self.predicted[name] / self.run[name] for name in SIZES}

    @property
    def drift(self) -> float:
        """The second plan's seconds over the first's."""
        before, after = (plan["train"] + plan["after"] for plan in self.plans)
        return after / before


def one_round(config: Config, folder: Path, name: str) -> Round:
    """Plan, run, plan."""
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    with watching_others() as planning:
        first = predicted(file, folder)
    with watching_others() as running:
        run = measured(file, folder, name)
    return Round((first, predicted(file, folder)), run, (planning.others, running.others))


def table(rounds: dict[str, list[Round]]) -> Iterator[str]:
    """Predicted / measured = ratio for every case, medians over its rounds."""
    heads = ("training, s | ", "then, s | ", "memory, MB | ", "trajectory, MB", "scores, MB")
    yield f"| | {' | '.join(heads)} | drift | busy |"
    yield "|---" * 11 + "|"
    for name, of_case in rounds.items():
        cells = [name]
        for size in SIZES:
            unit = 1e6 if size in ("memory", "trajectory", "scores") else 1.0
            said, was = (
                statistics.median(getattr(r, of)[size] for r in of_case) / unit
                for of in ("predicted", "run")
            )
            cells.append(f"{said:.4g} / {was:.4g}")
            if size in ("train", "after", "memory"):
                ratios = sorted(r.ratios[size] for r in of_case)
                middle, *ends = statistics.median(ratios), ratios[0], ratios[-1]
                spread = f" ({ends[0]:.2f}–{ends[1]:.2f})" if len(of_case) > 1 else ""
                cells.append(f"**{middle:.2f}**{spread}")
        cells.append(f"{statistics.median(r.drift for r in of_case):.2f}")
        cells.append(
            ", ".join(f"{statistics.median(r.busy[i] for r in of_case):.0%}" for i in (0, 1))
        )
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Parse the command line, measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of a pretrained model to fine-tune")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processor", action="store_true", help="measure processor time")
    parser.add_argument("case", nargs="*", help="cases to run, by the beginning of their names")
    options = parser.parse_args()
    if options.processor:
        WORKER[:] = ["-c", ON_PROCESSOR]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "model").mkdir()
        given = options.model and {"path": str(options.model.resolve())}
        every = cases(given or _small_model(folder / "model"), folder)
        chosen = {
            name: config
            for name, config in every.items()
            # Each rank is a process with its own clock.
            if not (options.processor and config.get("devices", {}).get("ranks"))
            if not options.case or any(name.startswith(case) for case in options.case)
        }
        rounds: dict[str, list[Round]] = {name: [] for name in chosen}
        for number in range(options.rounds):
            for place, (name, config) in enumerate(chosen.items()):
                print(f"round {number + 1}: {name}", file=sys.stderr)
                config = {**config, "name": name}
                rounds[name].append(one_round(config, folder, f"r{number}-{place}"))
                figures = {k: f"{v:.3g}" for k, v in rounds[name][-1].ratios.items()}
                print(f"  predicted / measured: {figures}", file=sys.stderr)
        print("\n".join(table(rounds)))


if __name__ == "__main__":
    main()
