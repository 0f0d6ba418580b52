"""Start several ranks on this machine, from one launcher process that represents them.

The launcher forwards signals to every rank, prints the outcome of rank 0, and exits with its exit
status. If a rank fails, the launcher ends the others, which would wait for it, and reports the
outcome of the failed rank. If a rank is killed or prints no outcome, the outcome is "died", as for
a single rank, so the engine resumes the run. Under torchrun, which starts ranks itself, none of
this is used.

This process does not import torch; the ranks do.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from engine.runs.environment import PARENT_PIPE, is_of_a_launcher
from engine.runs.states import Ending
from engine.runs.temporary import scratch_folder

RANK_COMMAND = [sys.executable, "-P", "-m", "engine.worker"]
RANK, WORLD_SIZE, LOCAL_RANK = "RANK", "WORLD_SIZE", "LOCAL_RANK"
RENDEZVOUS = "MAGIC_RENDEZVOUS"
"""The rendezvous file of the ranks of one machine."""
_TORCHRUN = "TORCHELASTIC_RUN_ID"
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_LOOPBACK = ("lo", "lo0")
"""The loopback interface on Linux and on macOS."""
_GRACE_SECONDS = 3.0
"""Time for the other ranks to print their outcomes after one has failed."""
_SAVE_SECONDS = 600.0
"""Time for the other ranks to save after one has saved and stopped."""


def is_rank() -> bool:
    """Whether this process was started as one of several ranks, by :func:`run_ranks` or torchrun.

    ``RANK`` and ``WORLD_SIZE`` alone are not enough: the shell may have them from another job.
    """
    known = RENDEZVOUS in os.environ or _TORCHRUN in os.environ
    return known and RANK in os.environ and WORLD_SIZE in os.environ


def clear_launcher_variables() -> None:
    """Remove variables of other launchers from the environment, unless this process is a rank."""
    if not is_rank():
        for name in [name for name in os.environ if is_of_a_launcher(name)]:
            del os.environ[name]


def local_rank() -> int:
    """The index of this rank on its machine."""
    return int(os.environ.get(LOCAL_RANK, "0"))


def local_rank_count(configured: int | None) -> int:
    """The number of ranks to start on this machine: as configured, default one per GPU."""
    if configured is not None:
        return configured
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return max(1, len([name for name in visible.split(",") if name.strip()]))
    # The driver's list, because importing torch takes seconds.
    gpus = Path("/proc/driver/nvidia/gpus")
    return max(1, len(list(gpus.iterdir()))) if gpus.is_dir() else 1


def _loopback_variables() -> dict[str, str]:
    """Variables that make the ranks of one machine use its loopback interface."""
    here = {name for _, name in socket.if_nameindex()}
    loopback = next((name for name in _LOOPBACK if name in here), None)
    # With an empty value the library chooses one.
    return dict.fromkeys(_INTERFACES, loopback or "")


def run_ranks(count: int, arguments: list[str]) -> int:
    """Run the worker on ``count`` ranks; prints its outcome and returns its exit status."""
    with scratch_folder("ranks") as folder:
        return _Ranks(count, arguments, folder).run()


class _Ranks:
    """The rank processes, and the first one that failed."""

    def __init__(self, count: int, arguments: list[str], folder: Path) -> None:
        self._folder = folder
        self._ended = threading.Condition()
        self._failed: int | None = None
        self._ending = False
        pipe, self._alive = os.pipe()
        os.set_inheritable(pipe, True)
        self._processes = [self._start(rank, count, arguments, pipe) for rank in range(count)]
        os.close(pipe)

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._forward_signal)
        for rank, process in enumerate(self._processes):
            threading.Thread(target=self._watch, args=(rank, process), daemon=True).start()
        with self._ended:
            while self._failed is None and any(p.returncode is None for p in self._processes):
                # With a timeout, so that signals are handled in between.
                self._ended.wait(0.2)
        if self._failed is not None:
            self._end_others()
        return self._conclude(self._failed or 0)

    def _start(
        self, rank: int, count: int, arguments: list[str], pipe: int
    ) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            RANK: str(rank),
            LOCAL_RANK: str(rank),
            WORLD_SIZE: str(count),
            RENDEZVOUS: str(self._folder / "meeting"),
            PARENT_PIPE: str(pipe),
        }
        environment |= _loopback_variables()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else count
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // count)))
        with open(self._output(rank), "wb") as output:
            return subprocess.Popen(
                [*RANK_COMMAND, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                env=environment,
                close_fds=False,
            )

    def _watch(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        with self._ended:
            # If several fail at once, one that was killed is the cause.
            if status != 0 and (self._failed is None or (status < 0 and not self._ending)):
                self._failed = rank
            self._ended.notify_all()

    def _end_others(self) -> None:
        """End the other ranks, which may wait for the failed one for minutes."""
        stopped = self._outcome(self._failed or 0).get("ending") == "stopped"
        deadline = time.monotonic() + (_SAVE_SECONDS if stopped else _GRACE_SECONDS)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        with self._ended:
            self._ending = True
        for process in self._processes:
            process.kill()
            process.wait()

    def _forward_signal(self, number: int, frame: FrameType | None) -> None:
        for process in self._processes:
            process.send_signal(number)

    def _output(self, rank: int) -> Path:
        return self._folder / f"outcome-{rank}"

    def _outcome(self, rank: int) -> dict[str, Any]:
        """The outcome that a rank printed; empty if it printed none."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            outcome = json.loads(self._output(rank).read_text().splitlines()[-1])
            return outcome if isinstance(outcome, dict) else {}
        return {}

    def _conclude(self, rank: int) -> int:
        """Print a rank's outcome as this process's outcome; returns the exit status."""
        status, outcome = self._processes[rank].returncode, self._outcome(rank)
        if outcome:
            print(json.dumps(outcome), flush=True)
            return max(status, 0) or int(outcome.get("exit_code", 0))
        why = (
            f"was killed by {signal.Signals(-status).name}"
            if status < 0
            else "exited without an outcome"
        )
        message = f"rank {rank} {why}; see its log"
        facts = {"ok": False, "message": message, "exit_code": 1, "ending": str(Ending.DIED)}
        if status < 0:
            facts["signal"] = -status
        print(json.dumps(facts), flush=True)
        return 1
