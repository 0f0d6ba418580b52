"""Interrupt a rank at every file operation of a run, resume the run, and compare every byte.

    python -m tests.crash.sweep --checkpointing sqrt --harm SIGKILL --every 1

Harms are signals before the n-th file operation (SIGKILL, SIGTERM, SIGINT), files that may not
grow beyond n bytes (``short``), and a disk of n bytes (``full``; needs ``unshare -rm``). Prints
one JSON object: how many ranks were harmed, how many runs came to their end, and every difference
from an undisturbed run. Exit status 1 if there is any.
"""

import argparse
import errno
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.runs.run_folder import RunFolder
from engine.runs.states import RunState
from tests.crash import tiny
from tests.crash.ranks import (
    RUN_ID,
    Harm,
    attempt,
    fingerprint,
    finish,
    leftovers,
    log_of,
    next_job,
    submitted,
)

QUESTION = "the sea was"
HARMS = ("SIGKILL", "SIGTERM", "SIGINT", "short", "full")
DONE = RunState.SUCCEEDED


@dataclass
class Tally:
    """Counts of a sweep."""

    checkpointing: str
    harm: str
    points: int = 0
    hit: int = 0
    """Ranks that the interruption ended."""
    finished: int = 0
    """Runs that succeeded afterwards."""
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Sweep:
    """Runs of one config, interrupted at every place."""

    def __init__(self, folder: Path, config: dict[str, Any], tally: Tally) -> None:
        """Compute the uninterrupted run that all others are compared with."""
        self.runs = folder / "runs"
        self.config = config
        self.tally = tally
        self.reference = submitted(folder / "reference", config, (QUESTION,))
        self.operations: list[int] = []
        while (job := next_job(self.reference)) is not None:
            end = attempt(job)
            assert end.exit_code == 0, log_of(job).read_text()
            self.operations.append(end.operations)
        self.expected = fingerprint(self.reference)

    def signals(self, every: int) -> None:
        """Interrupt the training with its attribution, then the later attribution."""
        number = getattr(signal, self.tally.harm)
        for job, operations in enumerate(self.operations):
            for at in range(1, operations + 1, every):
                # Interrupt the resumed attempt as well, at another place.
                again = Harm(1 + 7 * at % max(self.operations), number)
                self._point(f"{at} of job {job + 1}", [Harm(at, number), again], whole=job == 0)

    def short_writes(self, every: int) -> None:
        """Limit the size of files, from 0 to the largest file."""
        sizes = sorted({len(content) for content in self.expected.values()})
        journal = self.reference.events_file.stat().st_size
        wanted = sorted({*sizes, *range(200, journal, 400)})
        for size in wanted[::every]:
            harm = [Harm(largest_file=size - 1)]
            self._point(f"files under {size} bytes", harm, whole=True)

    def full_disks(self, every: int) -> None:
        """Limit the disk, from 0 bytes to the size of a run."""
        pages = 4 + sum(-(-len(content) // 4096) for content in self.expected.values())
        self.runs.mkdir()
        for size in range(12, 2 * pages, every):
            _mount(self.runs, f"size={4 * size}k")
            self._point(f"a disk of {4 * size} kB", [Harm()], whole=True)
            subprocess.run(["umount", str(self.runs)], check=True)

    def _point(self, where: str, harms: list[Harm], *, whole: bool) -> None:
        """One run that is interrupted and then resumed."""
        try:
            run = submitted(self.runs, self.config) if whole else self._trained()
        except OSError as error:
            # The disk is too small for the request itself: it was not acknowledged.
            assert error.errno == errno.ENOSPC and not (self.runs / RUN_ID).exists()
            return
        job = next_job(run)
        assert job is not None
        codes = [attempt(job, harm).exit_code for harm in harms if job.state() is not DONE]
        self.tally.points += 1
        self.tally.hit += codes[0] != 0
        if self.tally.harm == "full":
            _mount(self.runs, "remount,size=64m")
        try:
            finish(run)
            self.tally.finished += 1
            results = self._differences(run, whole)
            self.tally.differences += [f"{where}: {difference}" for difference in results]
        except AssertionError as error:
            self.tally.differences.append(f"{where}: {str(error)[-2000:]}")
        for entry in self.runs.iterdir():
            shutil.rmtree(entry)

    def _trained(self) -> RunFolder:
        """A copy of the finished run whose later attribution is still to be made."""
        shutil.copytree(self.reference.path.parent, self.runs, dirs_exist_ok=True)
        run = RunFolder(self.runs / self.reference.id)
        shutil.rmtree(run.attributions / "a0002")
        shutil.rmtree(run.path / "jobs" / "0002" / "attempts")
        return run

    def _differences(self, run: RunFolder, whole: bool) -> list[str]:
        results = fingerprint(run)
        expected = {
            name: content
            for name, content in self.expected.items()
            if not (whole and name.startswith("attributions/a0002"))
        }
        names = sorted(expected.keys() | results.keys())
        differ = [name for name in names if expected.get(name) != results.get(name)]
        return differ + leftovers(run)


def _mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def main() -> int:
    """Sweep one checkpointing and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpointing", required=True)
    parser.add_argument("--harm", default="SIGKILL", choices=HARMS)
    parser.add_argument("--every", type=int, default=1, help="take every n-th point")
    options = parser.parse_args()
    tiny.one_thread()
    tally, began = Tally(options.checkpointing, options.harm), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="magic-crash-") as name:
        folder = Path(name)
        (folder / "model").mkdir()
        config = tiny.tiny_config(folder, tiny.tiny_model(folder / "model"))
        config["trajectory"] = {"checkpointing": options.checkpointing}
        # Enough steps that half of what a run does to its files is training.
        config["training"]["epochs"] = 4
        tiny.load_libraries(config)
        sweep = Sweep(folder, config, tally)
        ways = {"short": sweep.short_writes, "full": sweep.full_disks}
        ways.get(options.harm, sweep.signals)(options.every)
    tally.seconds = round(time.monotonic() - began, 1)
    print(json.dumps(asdict(tally)))
    return 1 if tally.differences or tally.finished < tally.points else 0


if __name__ == "__main__":
    sys.exit(main())
