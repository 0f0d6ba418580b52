"""Kill processes of a run at given events and compare every byte of its results.

    python -m tests.crash.processes --targets rank,supervisor,engine,client,all --moments 5,40,90

A moment is a number of events in the run's journal. A client watches every run from its
beginning and must receive every record of the journal once. Prints one JSON object; exit status
1 if anything differs.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from engine.runs.jobs import jobs_of
from engine.runs.run_folder import RunFolder, new_run_id
from magic_tui.client.engine import Engine, connect, connect_if_running
from tests.crash import tiny
from tests.crash.ranks import fingerprint, leftovers, wait_until

TARGETS = ("rank", "supervisor", "engine", "client", "all")
WATCH = [sys.executable, "-m", "magic_tui", "watch", "--jsonl"]
OWN_ID = "scores.zarr/zarr.json"
"""Contains the run's id: the only file that differs between two runs of one config."""


@dataclass
class Tally:
    """Counts of a sweep."""

    points: int = 0
    hit: int = 0
    """Kills of a process that was alive."""
    resumed: int = 0
    """Runs that took more than one attempt."""
    finished: int = 0
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Sweep:
    """Runs under one real engine, which is killed and restarted."""

    def __init__(self, folder: Path, config: dict[str, Any], tally: Tally) -> None:
        """Compute the uninterrupted run that all others are compared with."""
        self.runs = folder / "runs"
        self.config = config
        self.tally = tally
        run = self._submit(connect(self.runs))
        assert connect(self.runs).wait(run.id, 120)["state"] == "succeeded"
        self.expected = _shared(run)

    def point(self, target: str, moment: int) -> None:
        """Submit a run, kill ``target`` at its ``moment``-th event, and compare the results."""
        began = connect(self.runs)
        run = self._submit(began)
        heard = run.path / "heard.jsonl"
        with open(heard, "wb") as output:
            client = subprocess.Popen([*WATCH, run.id, "--runs-dir", str(self.runs)], stdout=output)
        wait_until(lambda: _events(run) >= moment, 120)
        listening = [p for p in self._pids("all", run, began, client) if _is_on_the_network(p)]
        met = [_kill(pid) for pid in self._pids(target, run, began, client)]
        self.tally.points += 1
        self.tally.hit += any(met)
        view = connect(self.runs).wait(run.id, 180)
        where = f"{target} at {moment}"
        self.tally.finished += view["state"] == "succeeded"
        self.tally.resumed += view["job"]["attempts"] > 1
        digests = _shared(run)
        differ = [n for n in {*digests, *self.expected} if digests.get(n) != self.expected.get(n)]
        differ += leftovers(run) + [f"process {pid} is on the network" for pid in listening]
        if target not in ("client", "all"):
            client.wait(60)
            sequence = [json.loads(line)["seq"] for line in heard.read_text().splitlines()]
            if sequence != list(range(len(run.events()))):
                differ.append(f"the client heard {sequence[:200]}")
        client.kill()
        client.wait()
        self.tally.differences += [f"{where}: {difference}" for difference in differ]

    def _submit(self, engine: Engine) -> RunFolder:
        view = engine.submit(new_run_id(), self.config)
        return RunFolder(Path(view["path"]))

    def _pids(
        self, target: str, run: RunFolder, engine: Engine, client: subprocess.Popen[bytes]
    ) -> list[int]:
        attempt = jobs_of(run)[0].attempts()[-1]
        started = [event["pid"] for event in run.events() if event["event"] == "started"]
        pids = {
            "client": client.pid,
            "engine": int(engine.view["pid"]),
            "supervisor": int(attempt.about()["pid"]),
            "rank": int(started[-1]),
        }
        return list(pids.values()) if target == "all" else [pids[target]]


def _kill(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def _is_on_the_network(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).net_connections("inet"))
    return False


def _events(run: RunFolder) -> int:
    with contextlib.suppress(FileNotFoundError):
        return run.events_file.read_bytes().count(b"\n")
    return 0


def _shared(run: RunFolder) -> dict[str, bytes]:
    files = fingerprint(run)
    return {name: content for name, content in files.items() if not name.endswith(OWN_ID)}


def main() -> int:
    """Sweep and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--moments", required=True)
    options = parser.parse_args()
    tally, began = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="magic-crash-") as name:
        folder = Path(name)
        os.environ.update(
            MAGIC_STATE_DIR=str(folder / "state"),
            MAGIC_RUNTIME_DIR=str(folder / "runtime"),
            MAGIC_DISK_FLOOR_GB="0",
        )
        tiny.one_thread()
        (folder / "model").mkdir()
        config = tiny.tiny_config(folder, tiny.tiny_model(folder / "model"))
        config["training"]["epochs"] = 4
        config["trajectory"] = {"checkpointing": "sqrt"}
        try:
            sweep = Sweep(folder, config, tally)
            for moment in map(int, options.moments.split(",")):
                for target in options.targets.split(","):
                    sweep.point(target, moment)
        finally:
            engine = connect_if_running()
            if engine is not None:
                engine.stop()
    tally.seconds = round(time.monotonic() - began, 1)
    print(json.dumps(asdict(tally)))
    return 1 if tally.differences or tally.finished < tally.points else 0


if __name__ == "__main__":
    sys.exit(main())
