"""Kill a rank at every file operation of a run, let it go on, and compare every byte.

    python -m tests.crash.sweep --schedule sqrt --every 1

Prints one JSON object: how many ranks were killed or stopped, how many runs came to their end,
and every difference from an uninterrupted run. Exit status 1 if there is any.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.crash import tiny

QUESTION = "the sea was"


@dataclass
class Tally:
    """What a sweep saw."""

    schedule: str
    signal: str
    points: int = 0
    hit: int = 0
    """Ranks that the signal really ended."""
    finished: int = 0
    """Runs that came to their end afterwards."""
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Sweep:
    """Runs of one config, interrupted everywhere."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        """Make the uninterrupted run that all others are compared with."""
        from tests.crash.ranks import attempt, fingerprint, next_job, submitted

        self.folder = folder
        self.config = config
        self.reference = submitted(folder / "reference", config, (QUESTION,))
        self.operations: list[int] = []
        while (job := next_job(self.reference)) is not None:
            end = attempt(job)
            assert end.exit_code == 0, (job.path / "log").read_text()
            self.operations.append(end.operations)
        self.expected = fingerprint(self.reference)

    def run(self, tally: Tally, every: int) -> None:
        """Interrupt the training with its attribution, then the later attribution."""
        number = getattr(signal, tally.signal)
        for at in range(1, self.operations[0] + 1, every):
            self._point(tally, at, number, whole=True)
        for at in range(1, self.operations[1] + 1, every):
            self._point(tally, at, number, whole=False)

    def _point(self, tally: Tally, at: int, number: int, *, whole: bool) -> None:
        from tests.crash.ranks import attempt, finish, next_job, submitted

        runs = self.folder / "runs"
        run = submitted(runs, self.config) if whole else self._trained(runs)
        job = next_job(run)
        assert job is not None
        end = attempt(job, at, number)
        # Once more at another place: what is resumed is interrupted as well.
        if end.exit_code != 0:
            attempt(job, 1 + 7 * at % max(self.operations), number)
        tally.points += 1
        tally.hit += end.exit_code != 0
        try:
            finish(run)
            tally.finished += 1
            tally.differences += self._differences(run, f"{at} of {job.path.name}", whole)
        except AssertionError as error:
            tally.differences.append(f"{at} of {job.path.name}: {str(error)[-2000:]}")
        shutil.rmtree(runs)

    def _trained(self, runs: Path) -> Any:
        """A copy of the finished run whose later attribution is still to be made."""
        from tests.crash.ranks import RunFolder

        shutil.copytree(self.reference.path.parent, runs)
        run = RunFolder(runs / self.reference.id)
        shutil.rmtree(run.attributions / "a0002")
        shutil.rmtree(run.path / "jobs" / "0002" / "attempts")
        return run

    def _differences(self, run: Any, where: str, whole: bool) -> list[str]:
        from tests.crash.ranks import fingerprint, leftovers

        found = fingerprint(run)
        expected = {
            name: content
            for name, content in self.expected.items()
            if not (whole and name.startswith("attributions/a0002"))
        }
        names = sorted(expected.keys() | found.keys())
        differ = [name for name in names if expected.get(name) != found.get(name)]
        return [f"{where}: {name}" for name in differ + leftovers(run)]


def main() -> int:
    """Sweep one schedule and print the tally."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedule", required=True)
    parser.add_argument("--signal", default="SIGKILL", choices=["SIGKILL", "SIGTERM", "SIGINT"])
    parser.add_argument("--every", type=int, default=1, help="take every n-th operation")
    options = parser.parse_args()
    tiny.one_thread()
    tally, began = Tally(options.schedule, options.signal), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="magic-crash-") as name:
        folder = Path(name)
        (folder / "model").mkdir()
        config = tiny.tiny_config(folder, tiny.tiny_model(folder / "model"))
        config["trajectory"] = {"schedule": options.schedule}
        tiny.load_libraries(config)
        Sweep(folder, config).run(tally, options.every)
    tally.seconds = round(time.monotonic() - began, 1)
    print(json.dumps(asdict(tally)))
    return 1 if tally.differences or tally.finished < tally.points else 0


if __name__ == "__main__":
    sys.exit(main())
