"""Predicted against actual φ in the paper's settings, at a size for two processor cores.

``python -m benchmarks.bench_settings --data DATA --runs RUNS [--count N] [SETTING …]``: every
``sample_configs/*-cpu.yaml`` is run, validated by retraining without 1, 5, 10 and 20 % of the
documents, and compared with the baselines on the same retrainings. ``DATA`` is the output of
``benchmarks.settings_data``. Runs and retrainings in ``RUNS`` are reused; ``--count 0`` only
reports. ``--set KEY=VALUE`` changes a config; give it another name with ``--name``.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.scatter import write_scatter
from engine.evaluation.trust import read_trust
from engine.evaluation.validation import Validation, read_baselines, read_validation
from engine.runs.events import Event, Phase
from engine.runs.run_folder import RunFolder
from engine.scores.attribution import Attribution, open_attribution

CONFIGS = Path(__file__).resolve().parents[1] / "sample_configs"
SHARES = (0.01, 0.05, 0.1, 0.2)
METHODS = ("cosine", "bm25", "ekfac", "trak")


def main() -> None:
    """Parse the command line, run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--count", type=int, default=20, help="subsets of each share")
    parser.add_argument(
        "--drop", type=float, action="append", help="share; default 1, 5, 10, 20 %%"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes that retrain")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--name", default="", help="added to the names of configs changed by --set")
    parser.add_argument("--force", action="append", default=[])
    parser.add_argument("--pictures", type=Path, help="folder for the scatter plots")
    parser.add_argument(
        "setting", nargs="*", help="settings to run, by the beginning of their names"
    )
    options = parser.parse_args()
    folders = []
    for file in sorted(CONFIGS.glob("*-cpu.yaml")):
        if not options.setting or any(file.stem.startswith(name) for name in options.setting):
            folder = options.runs.resolve() / f"{file.stem}{options.name}"
            if options.count:
                measure(file, folder, options)
            folders.append(folder)
    print("\n".join(table(folders)))
    for folder in folders if options.pictures else ():
        write_scatter(attributed(folder), options.pictures / f"{folder.name}.svg")


def measure(config: Path, folder: Path, options: argparse.Namespace) -> None:
    """Run and validate a setting, unless its results exist."""
    values = yaml.safe_load(config.read_text())
    for change in options.set:
        key, _, value = change.partition("=")
        *sections, last = key.split(".")
        into = values
        for section in sections:
            into = into.setdefault(section, {})
        into[last] = yaml.safe_load(value)
    if not (folder / "run_config.yaml").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        changed = folder.with_suffix(".yaml")
        changed.write_text(yaml.safe_dump(values))
        where = ["--config", str(changed), "--runs", str(folder.parent), "--id", folder.name]
        worker(["run", *where, *(f"--force={name}" for name in options.force)], options.data)
    elif not list((folder / "attributions").glob("[!.]*/complete.json")):
        worker(["resume", "--run", str(folder)], options.data)
    request: dict[str, Any] = {"count": options.count, "jobs": options.jobs, "metasmoothness": True}
    request |= {"drop": options.drop or SHARES, "baselines": True}
    worker(["validate", "--run", str(folder), "--request", json.dumps(request)], options.data)


def worker(arguments: list[str], data: Path) -> None:
    """Run a worker in the folder to which the configs' paths are relative."""
    print(" ".join(arguments), file=sys.stderr)
    command = [sys.executable, "-P", "-m", "engine.worker", *arguments]
    paths = os.pathsep.join([str(CONFIGS.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    # A worker prints its outcome as JSON in the last line.
    answer = subprocess.run(
        command, cwd=data.resolve().parent, env=environment, stdout=subprocess.PIPE, check=False
    )
    outcome = json.loads(answer.stdout.splitlines()[-1])
    if not outcome["ok"]:
        raise SystemExit(f"{' '.join(arguments)}: {outcome['message']}")


def attributed(folder: Path) -> Attribution:
    """The attribution of a setting's run."""
    return open_attribution(RunFolder(folder), None)


def table(folders: list[Path]) -> Iterator[str]:
    """One line for each setting and share."""
    names = ("setting", "left out", "subsets", "LDS", "95 %", "Pearson", *METHODS)
    yield f"| {' | '.join(names)} |"
    yield "|---" * len(names) + "|"
    for folder in folders:
        opened = attributed(folder)
        validation, baselines = read_validation(opened.path), read_baselines(opened)
        if validation is None:
            continue
        for kind in validation.kinds:
            ours = validation.by_kind[kind]
            others = [_lds(baselines[name].by_kind[kind]) if name in baselines else ""
                      for name in METHODS]  # fmt: skip
            low, high = ours.interval
            linear = sum(points.pearson for points in ours.points) / len(ours.points)
            cells = (folder.name, kind.removeprefix("drop "), str(ours.subsets), _lds(ours),
                     f"{low:.3f}–{high:.3f}", f"{linear:.3f}", *others)  # fmt: skip
            yield f"| {' | '.join(cells)} |"
    yield ""
    names = (
        "setting",
        "steps",
        "loss",
        "φ",
        "queries",
        "metasmoothness",
        "cost a query",
        "verdict",
    )
    yield f"| {' | '.join(names)} |"
    yield "|---" * len(names) + "|"
    yield from (f"| {' | '.join(_facts(folder))} |" for folder in folders)


def _facts(folder: Path) -> Iterator[str]:
    opened = attributed(folder)
    events = opened.run.events()
    losses = [event["loss"] for event in events if event["event"] == Event.TRAIN_STEP]
    began = {e["phase"]: e["time"] for e in reversed(events) if e["event"] == Event.PHASE}
    ended = next(e["time"] for e in events if e["event"] == Event.ATTRIBUTED)
    queries = opened.queries
    count = len(queries)
    before = sum(query.before for query in queries) / count
    after = sum(query.after for query in queries) / count
    cost = (ended - began[Phase.MEASURE]) / (began[Phase.MEASURE] - began[Phase.TRAIN])
    trust = read_trust(opened)
    yield from (folder.name, str(len(losses)), f"{losses[0]:.3g} → {losses[-1]:.3g}")
    yield from (f"{before:.3g} → {after:.3g}", str(count))
    smooth, linear = trust.indicators.metasmoothness, trust.indicators.linearity
    yield "" if smooth is None else f"{smooth:.3f}, linearity {linear:.2f}"
    yield f"{cost / count:.1f}"
    yield f"{trust.verdict.symbol} {trust.verdict.words}"


def _lds(validation: Validation) -> str:
    return f"{validation.lds:.3f}"


if __name__ == "__main__":
    main()
