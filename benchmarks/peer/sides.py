"""Run either side on a problem in a separate process, and measure it."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peer.problem import Problem

HERE = "benchmarks.peer"


@dataclass(frozen=True)
class Taken:
    """Wall-clock and processor seconds of one process, its peak in megabytes, and its scores."""

    wall: float
    processor: float
    work_wall: float
    work_processor: float
    memory: float
    scores: Any
    training: tuple[float, float]
    """Wall-clock and processor seconds of the training."""

    @property
    def without_training(self) -> "Taken":
        """The same without the training."""
        wall, processor = self.training
        return replace(
            self,
            wall=self.wall - wall,
            processor=self.processor - processor,
            work_wall=self.work_wall - wall,
            work_processor=self.work_processor - processor,
        )


class Sides:
    """Runs either side on a problem, each run in a separate process."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(folder / "cache"),
            "OMP_NUM_THREADS": str(options.threads),
            "TQDM_DISABLE": "1",
            # The worker sets these two, so the peer gets them as well.
            "OMP_WAIT_POLICY": "PASSIVE",
            "THP_MEM_ALLOC_ENABLE": "1",
            # Both sides use all visible GPUs.
            "CUDA_VISIBLE_DEVICES": "" if options.device == "cpu" else "0",
        }

    def problem(self, name: str, head: str, model: str | None, problem: Problem) -> Path:
        """The folder of a problem."""
        folder = self.folder / name
        fields = json.dumps(asdict(problem))
        text = ["--text", str(self.options.text)] if self.options.text else []
        chosen = ["--model", model] if model else []
        command = [sys.executable, "-m", f"{HERE}.problem", str(folder), "--head", head]
        self._run([*command, "--problem", fields, *text, *chosen])
        return folder

    def oracle(self, problem: Path, queries: Path) -> Any:
        """The true scores."""
        command = [sys.executable, "-m", f"{HERE}.oracle", str(problem), str(queries)]
        with self._folder_of("oracle") as out:
            self._run([*command, str(out)])
            return np.load(out / "scores.npy")

    def ours(self, problem: Path, queries: Path, *extra: str) -> Taken:
        """A run of magic."""
        with self._folder_of("ours") as out:
            return self._ours("run", problem, queries, out, *extra)

    def ours_twice(self, problem: Path, queries: Path, more: Path) -> tuple[Taken, Taken]:
        """A run of magic, and further queries of its trajectory."""
        with self._folder_of("ours") as out:
            run = self._ours("run", problem, queries, out)
            return run, self._ours("attribute", problem, more, out)

    def _ours(self, action: str, problem: Path, queries: Path, out: Path, *extra: str) -> Taken:
        command = [sys.executable, "-m", f"{HERE}.ours", action, str(problem), str(queries)]
        begin = "train" if action == "run" else "measure"
        device = ["--device", self.options.device]
        return self._taken([*command, str(out), *device, *extra], out, begin)

    def theirs(self, problem: Path, queries: Path) -> Taken:
        """A run of the peer."""
        command = [self.options.peer, "-m", f"{HERE}.theirs", str(problem), str(queries)]
        how = ["--device", self.options.device, "--save-mode", self.options.peer_save_mode]
        with self._folder_of("theirs") as out:
            return self._taken([*command, str(out), *how], out, "train")

    @contextlib.contextmanager
    def _folder_of(self, name: str) -> Iterator[Path]:
        # Trajectories are large, so each is removed after its measurement.
        with tempfile.TemporaryDirectory(prefix=name, dir=self.folder) as folder:
            yield Path(folder)

    def _taken(self, command: list[str], out: Path, begin: str) -> Taken:
        wall, processor, resident = self._run(command)
        measured = json.loads((out / "measured.json").read_text())
        moments = {name: np.array(clocks) for name, clocks in measured["moments"].items()}
        work = moments["end"] - moments[begin]
        training = moments["measure"] - moments[begin]
        memory = (measured["cuda_peak"] or resident) / 1e6
        return Taken(wall, processor, *work, memory, np.load(out / "scores.npy"), tuple(training))

    def _run(self, command: list[str]) -> tuple[float, float, float]:
        """Seconds, processor seconds and peak bytes of a process."""
        log = self.folder / "log.txt"
        began = time.perf_counter()
        with log.open("wb") as output:
            child = subprocess.Popen(
                command, env=self.environment, stdout=output, stderr=subprocess.STDOUT
            )
            _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{log.read_text()[-4000:]}")
        seconds = time.perf_counter() - began
        return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
