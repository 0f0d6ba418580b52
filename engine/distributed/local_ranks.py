"""Several ranks of this machine, started by one process that stands for all of them.

To whoever started it, that process is the job: it passes signals on to every rank, prints the
outcome of the first, and ends with the exit status of it. A rank that fails ends the others,
which would wait for it, and its outcome is the one that counts. A rank that was killed or said
nothing died, as one rank alone would have, so that the work goes on by itself. Under torchrun,
which starts ranks itself on one or more machines, nothing of this is used.

No library is imported: the ranks load torch, not this process.
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
"""A file through which the ranks of one machine find each other."""
_TORCHRUN = "TORCHELASTIC_RUN_ID"
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_LOOPBACK = ("lo", "lo0")
"""Its name on Linux and on macOS."""
_GRACE_SECONDS = 3.0
"""How long the others may take to say what they have to say when one has failed."""
_SAVE_SECONDS = 600.0
"""How long they may take to save when one has saved and stopped."""


def is_rank() -> bool:
    """Whether this process was started as one of several ranks, by :func:`run_ranks` or torchrun.

    ``RANK`` and ``WORLD_SIZE`` alone may be left over from another job of the shell.
    """
    known = RENDEZVOUS in os.environ or _TORCHRUN in os.environ
    return known and RANK in os.environ and WORLD_SIZE in os.environ


def clear_launcher_variables() -> None:
    """Remove from this process's environment what describes a job that it is no rank of."""
    if not is_rank():
        for name in [name for name in os.environ if is_of_a_launcher(name)]:
            del os.environ[name]


def local_rank() -> int:
    """This rank's number on its machine."""
    return int(os.environ.get(LOCAL_RANK, "0"))


def ranks_here(asked: int | None) -> int:
    """How many ranks to start on this machine: as many as asked for, or one for every GPU."""
    if asked is not None:
        return asked
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return max(1, len([name for name in visible.split(",") if name.strip()]))
    # Without the driver's list of them, torch need not be asked, which takes seconds.
    found = Path("/proc/driver/nvidia/gpus")
    return max(1, len(list(found.iterdir()))) if found.is_dir() else 1


def _of_this_machine() -> dict[str, str]:
    """The interface on which the ranks meet, whichever others need on a network."""
    here = {name for _, name in socket.if_nameindex()}
    loopback = next((name for name in _LOOPBACK if name in here), None)
    # Empty, a library chooses one itself.
    return dict.fromkeys(_INTERFACES, loopback or "")


def run_ranks(count: int, arguments: list[str]) -> int:
    """Do a worker's job on ``count`` ranks; prints its outcome and returns its exit status."""
    with scratch_folder("ranks") as folder:
        return _Ranks(count, arguments, folder).run()


class _Ranks:
    """The processes, and the first of them that failed."""

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
            signal.signal(number, self._pass_on)
        for rank, process in enumerate(self._processes):
            threading.Thread(target=self._watch, args=(rank, process), daemon=True).start()
        with self._ended:
            while self._failed is None and any(p.returncode is None for p in self._processes):
                # With a limit, so that signals are taken in between.
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
        environment |= _of_this_machine()
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
            # Of several that end at once, one that was killed is why the others failed.
            if status != 0 and (self._failed is None or (status < 0 and not self._ending)):
                self._failed = rank
            self._ended.notify_all()

    def _end_others(self) -> None:
        """They may be waiting for the one that failed, and would do so for minutes."""
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

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        for process in self._processes:
            process.send_signal(number)

    def _output(self, rank: int) -> Path:
        return self._folder / f"outcome-{rank}"

    def _outcome(self, rank: int) -> dict[str, Any]:
        """What a rank printed last; nothing if it was killed before."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            found = json.loads(self._output(rank).read_text().splitlines()[-1])
            return found if isinstance(found, dict) else {}
        return {}

    def _conclude(self, rank: int) -> int:
        """Print a rank's outcome as this process's own; returns the exit status."""
        status, outcome = self._processes[rank].returncode, self._outcome(rank)
        if outcome:
            print(json.dumps(outcome), flush=True)
            return max(status, 0) or int(outcome.get("exit_code", 0))
        why = f"was killed by {signal.Signals(-status).name}" if status < 0 else "ended early"
        message = f"rank {rank} {why}; its log says more"
        facts = {"ok": False, "message": message, "exit_code": 1, "ending": str(Ending.DIED)}
        if status < 0:
            facts["signal"] = -status
        print(json.dumps(facts), flush=True)
        return 1
