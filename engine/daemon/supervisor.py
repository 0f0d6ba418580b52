"""``python -m engine.daemon.supervisor ATTEMPT DESCRIPTOR…``: supervise one attempt.

The supervisor starts the worker, forwards SIGTERM (stop and save) and SIGINT (stop now) to it, and
records how it ended. It runs in its own session, so it survives the engine and a logout. The
descriptors hold the attempt's lock and its devices; the worker inherits them, so they are held
until the last process has exited. The worker ends when the pipe that only this process holds open
is closed.

This module delays every start of a run, so it imports only the standard library and light modules.
"""

import contextlib
import errno
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from engine.daemon.processes import process_start
from engine.runs.attempts import AttemptFolder
from engine.runs.checksummed import read_record
from engine.runs.environment import (
    PARENT_PIPE,
    child_environment,
    environment_for_a_run,
    keep_files_private,
)
from engine.runs.errors import OUT_OF_MEMORY, RunError, says_out_of_memory
from engine.runs.safe_open import open_regular, regular
from engine.runs.states import Ending

WORKER_COMMAND = [sys.executable, "-P", "-m", "engine.worker", "job", "--attempt"]
CANCEL_SECONDS = 10.0
"""How long a worker may take to stop without saving before it is killed."""
GPU_PREFIXES = ("GPU-", "MIG-")
_FORWARDED = (signal.SIGTERM, signal.SIGINT)
_ENDINGS: dict[Any, Ending] = {
    str(ending): ending for ending in (Ending.FULL, Ending.STOPPED, Ending.DIED)
}
"""Endings that a worker may report; any other report of an error means FAILED."""
_OUT_OF_MEMORY = (
    "out of memory: the system killed its process; set training.micro_batch_size or "
    "attribution.memory_budget_gb lower"
)
_LOG_END_BYTES = 4096
_RESERVED_BYTES = 16_384
_OUTCOME_BYTES = 1 << 20
_MEMBERSHIP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_VMSTAT = Path("/proc/vmstat")


def main(arguments: list[str]) -> int:
    """Supervise an attempt; its end is recorded, so the exit status is always 0."""
    attempt = AttemptFolder(Path(arguments[0]))
    held = [int(descriptor) for descriptor in arguments[1:]] or [attempt.take_lock()]
    keep_files_private()
    wake = _catch_signals()
    attempt.write_about(pid=os.getpid(), started=process_start(os.getpid()))
    # Freed before the end is recorded, so that a full disk has room for the record.
    reserve = attempt.path / "reserve"
    try:
        reserve.write_bytes(bytes(_RESERVED_BYTES))
        ending, facts = _Worker(attempt, held, wake).run()
    except (OSError, RunError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        ending = Ending.FULL if full else Ending.DIED
        facts = {"message": f"the worker could not be started: {error}", "exit_code": 1}
    reserve.unlink(missing_ok=True)
    attempt.write_exit(ending, **facts)
    return 0


class _Worker:
    """The worker process."""

    def __init__(self, attempt: AttemptFolder, held: list[int], wake: int) -> None:
        self._attempt, self._wake = attempt, wake
        self._sent: set[int] = set()
        self._deadline: float | None = None
        self._kills = OutOfMemoryKills()
        pipe, self._alive = os.pipe()
        # A pipe and not a file, so that the worker can report a full disk.
        self._output, output = os.pipe()
        self._output_end = b""
        attempt.log_file.parent.mkdir(exist_ok=True)
        with open(attempt.log_file, "ab", opener=regular) as log:
            self._process = subprocess.Popen(
                [*WORKER_COMMAND, str(attempt.path)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                cwd="/",
                env=_environment(attempt, pipe),
                pass_fds=[*held, pipe],
                process_group=0,
            )
        os.close(pipe)
        os.close(output)
        os.set_blocking(self._output, False)

    def run(self) -> tuple[Ending, dict[str, Any]]:
        """Wait for its exit and forward signals; returns what to record."""
        sources = [self._wake, self._output]
        while not self._has_exited():
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            ready = select.select(sources, [], [], left)[0]
            if self._wake in ready:
                for number in os.read(self._wake, 4096):
                    self._forward(number)
            if self._output in ready and not self._read_output():
                sources.remove(self._output)
            if not ready:
                self._send(signal.SIGKILL)
                self._deadline = None
        # Its own child processes would keep the lock held. The group's id cannot be reused yet,
        # because the worker has not been waited for.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        while self._read_output():
            pass
        return self._conclusion(self._process.wait())

    def _read_output(self) -> bool:
        """Keep the end of its output; False if there is no more for now."""
        try:
            piece = os.read(self._output, 1 << 16)
        except BlockingIOError:
            return False
        self._output_end = (self._output_end + piece)[-_OUTCOME_BYTES:]
        return bool(piece)

    def _has_exited(self) -> bool:
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, options) is not None

    def _forward(self, number: int) -> None:
        """Forward a signal once, however often it is received."""
        if number not in _FORWARDED or number in self._sent or signal.SIGINT in self._sent:
            return
        self._send(number)
        if number == signal.SIGINT:
            self._deadline = time.monotonic() + CANCEL_SECONDS

    def _send(self, number: int) -> None:
        self._sent.add(number)
        os.kill(self._process.pid, number)

    def _conclusion(self, status: int) -> tuple[Ending, dict[str, Any]]:
        outcome = _last_object(self._output_end)
        log = self._attempt.log_file
        if outcome is not None and outcome.get("ok") is True and status == 0:
            return Ending.DONE, {"facts": outcome}
        if outcome is not None and outcome.get("ok") is False:
            if self._is_out_of_memory(outcome.get("signal")):
                return Ending.FAILED, {"exit_code": 1, "message": _OUT_OF_MEMORY}
            ending = _ENDINGS.get(outcome.get("ending"), Ending.FAILED)
            code = outcome.get("exit_code", 1)
            repeats = outcome.get("repeats") is True
            return ending, {
                "message": outcome.get("message"), "repeats": repeats, "exit_code": code
            }  # fmt: skip
        if status >= 0 and self._log_shows_out_of_memory():
            return Ending.FAILED, {"exit_code": 1, "message": OUT_OF_MEMORY}
        if status >= 0:
            message = f"its process exited with status {status} and no error message; see {log}"
            return Ending.DIED, {"message": message, "exit_code": 1}
        number = -status
        facts = {"exit_code": 1, "signal": number}
        if number in self._sent:
            return Ending.STOPPED, {**facts, "message": "it was stopped"}
        if self._is_out_of_memory(number):
            return Ending.FAILED, {**facts, "message": _OUT_OF_MEMORY}
        if number in (signal.SIGABRT, signal.SIGSEGV) and self._log_shows_out_of_memory():
            return Ending.FAILED, {**facts, "message": OUT_OF_MEMORY}
        message = f"its process was killed by {_signal_name(number)}; see {log}"
        return Ending.DIED, {**facts, "message": message}

    def _log_shows_out_of_memory(self) -> bool:
        """Whether the end of the log reports a failed allocation (ulimit -v)."""
        with contextlib.suppress(OSError, RunError), open_regular(self._attempt.log_file) as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_END_BYTES))
            return says_out_of_memory(log.read().decode(errors="replace"))
        return False

    def _is_out_of_memory(self, number: Any) -> bool:
        return number == signal.SIGKILL and self._kills.happened()


def _catch_signals() -> int:
    """Catch the signals; returns a descriptor from which their numbers can be read."""
    receiving, sending = os.pipe()
    os.set_blocking(sending, False)
    signal.set_wakeup_fd(sending, warn_on_full_buffer=False)
    for number in (*_FORWARDED, signal.SIGCHLD):
        signal.signal(number, lambda number, frame: None)
    return receiving


def _environment(attempt: AttemptFolder, pipe: int) -> dict[str, str]:
    """Our environment, with the variables of the run and of its devices."""
    request = read_record(attempt.job_path / "request.json") or {}
    environment = environment_for_a_run(os.environ, request.get("environment", {}))
    environment = child_environment(environment)
    devices = [d for d in attempt.about().get("devices", []) if d.startswith(GPU_PREFIXES)]
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    elif attempt.about().get("gpu") is False:
        # Prepared without a GPU, it continues without one.
        environment["CUDA_VISIBLE_DEVICES"] = ""
    environment[PARENT_PIPE] = str(pipe)
    return environment


def _last_object(printed: bytes) -> dict[str, Any] | None:
    """The JSON object in the last line of output, if that is one."""
    try:
        outcome = json.loads(printed.splitlines()[-1])
    except (ValueError, IndexError):
        return None
    return outcome if isinstance(outcome, dict) else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class OutOfMemoryKills:
    """Whether the kernel has killed a process for lack of memory since this was created."""

    def __init__(self) -> None:
        """Read the counters of this machine and of this process's control groups."""
        self._files = [_VMSTAT, *_group_files()]
        self._before = [_kills(path) for path in self._files]

    def happened(self) -> bool:
        """Whether any counter has increased."""
        return any(
            _kills(path) > before for path, before in zip(self._files, self._before, strict=True)
        )


def _group_files() -> list[Path]:
    """The files in which the control groups, of either version, count kills."""
    files = []
    with contextlib.suppress(OSError):
        for line in _MEMBERSHIP.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            group = group.lstrip("/")
            if not controllers:
                files.append(_CGROUPS / group / "memory.events")
            elif "memory" in controllers.split(","):
                files.append(_CGROUPS / "memory" / group / "memory.oom_control")
    return files


def _kills(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
