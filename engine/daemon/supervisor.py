"""``python -m engine.daemon.supervisor ATTEMPT DESCRIPTOR…``: one attempt from start to end.

It starts the rank, passes SIGTERM (stop and save) and SIGINT (stop now) on to it and records how
it ended. It runs in a session of its own, so that neither the engine's end nor a logout reaches
it. The descriptors hold the attempt's lock and its devices; the rank gets them too, so that they
are held until the last process is gone. The rank, in turn, ends when the pipe that only this
process holds open is closed.

Every start of a run waits for this module: it imports nothing but the standard library and the
part of the records that does the same.
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

from engine.daemon.memory_kills import MemoryKills
from engine.daemon.processes import process_start
from engine.runs.attempts import AttemptFolder
from engine.runs.checksummed import read_record
from engine.runs.environment import (
    PARENT_PIPE,
    child_environment,
    environment_for_a_run,
    keep_files_private,
)
from engine.runs.errors import RunError
from engine.runs.out_of_memory import OUT_OF_MEMORY, says_out_of_memory
from engine.runs.safe_open import open_regular, regular
from engine.runs.states import Ending

RANK_COMMAND = [sys.executable, "-P", "-m", "engine.worker", "job", "--attempt"]
CANCEL_PATIENCE_SECONDS = 10.0
"""How long a rank may take to stop without saving before it is killed."""
GPU_PREFIXES = ("GPU-", "MIG-")
_PASSED_ON = (signal.SIGTERM, signal.SIGINT)
_ENDINGS: dict[Any, Ending] = {
    str(ending): ending for ending in (Ending.FULL, Ending.STOPPED, Ending.DIED)
}
"""Of outcomes that are not ok; any other is a failure."""
_OUT_OF_MEMORY = (
    "out of memory: the system killed its process; set training.micro_batch_size or "
    "attribution.memory_budget_gb lower"
)
_LAST_BYTES = 4096
_ROOM_BYTES = 16_384
_OUTCOME_BYTES = 1 << 20


def main(arguments: list[str]) -> int:
    """Supervise the attempt; its end is recorded, so the exit status only says that it was."""
    attempt = AttemptFolder(Path(arguments[0]))
    held = [int(descriptor) for descriptor in arguments[1:]] or [attempt.take_lock()]
    keep_files_private()
    wake = _listen()
    attempt.write_about(pid=os.getpid(), started=process_start(os.getpid()))
    # Bytes that are given back before the end is recorded: it must be, on a full disk as well.
    room = attempt.path / "room"
    try:
        room.write_bytes(bytes(_ROOM_BYTES))
        ending, facts = _Rank(attempt, held, wake).run()
    except (OSError, RunError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        ending = Ending.FULL if full else Ending.DIED
        facts = {"message": f"the rank could not be started: {error}", "exit_code": 1}
    room.unlink(missing_ok=True)
    attempt.write_exit(ending, **facts)
    return 0


class _Rank:
    """The process that computes."""

    def __init__(self, attempt: AttemptFolder, held: list[int], wake: int) -> None:
        self._attempt, self._wake = attempt, wake
        self._sent: set[int] = set()
        self._deadline: float | None = None
        self._kills = MemoryKills()
        pipe, self._alive = os.pipe()
        # Not a file: the rank has to be able to say that the disk is full.
        self._output, output = os.pipe()
        self._printed = b""
        attempt.log_file.parent.mkdir(exist_ok=True)
        with open(attempt.log_file, "ab", opener=regular) as log:
            self._process = subprocess.Popen(
                [*RANK_COMMAND, str(attempt.path)],
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
        """Wait for its end, passing signals on; returns what to record."""
        sources = [self._wake, self._output]
        while not self._has_ended():
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            ready = select.select(sources, [], [], left)[0]
            if self._wake in ready:
                for number in os.read(self._wake, 4096):
                    self._pass_on(number)
            if self._output in ready and not self._take_output():
                sources.remove(self._output)
            if not ready:
                self._send(signal.SIGKILL)
                self._deadline = None
        # What it started itself would go on holding the lock. The group's id is still taken,
        # because the rank has not been waited for.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        while self._take_output():
            pass
        return self._conclusion(self._process.wait())

    def _take_output(self) -> bool:
        """Keep the end of what it printed; False if there is nothing more for now."""
        try:
            printed = os.read(self._output, 1 << 16)
        except BlockingIOError:
            return False
        self._printed = (self._printed + printed)[-_OUTCOME_BYTES:]
        return bool(printed)

    def _has_ended(self) -> bool:
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, options) is not None

    def _pass_on(self, number: int) -> None:
        """Once each: whoever wants to be sure may ask again and again."""
        if number not in _PASSED_ON or number in self._sent or signal.SIGINT in self._sent:
            return
        self._send(number)
        if number == signal.SIGINT:
            self._deadline = time.monotonic() + CANCEL_PATIENCE_SECONDS

    def _send(self, number: int) -> None:
        self._sent.add(number)
        os.kill(self._process.pid, number)

    def _conclusion(self, status: int) -> tuple[Ending, dict[str, Any]]:
        outcome = _last_object(self._printed)
        log = self._attempt.log_file
        if outcome is not None and outcome.get("ok") is True and status == 0:
            return Ending.DONE, {"facts": outcome}
        if outcome is not None and outcome.get("ok") is False:
            if self._is_out_of_memory(outcome.get("signal")):
                return Ending.FAILED, {"exit_code": 1, "message": _OUT_OF_MEMORY}
            ending = _ENDINGS.get(outcome.get("ending"), Ending.FAILED)
            code = outcome.get("exit_code", 1)
            told = {"message": outcome.get("message"), "repeats": outcome.get("repeats") is True}
            return ending, {**told, "exit_code": code}
        if status >= 0 and self._log_says_so():
            return Ending.FAILED, {"exit_code": 1, "message": OUT_OF_MEMORY}
        if status >= 0:
            message = f"its process ended with status {status} and without a word; see {log}"
            return Ending.DIED, {"message": message, "exit_code": 1}
        number = -status
        facts = {"exit_code": 1, "signal": number}
        if number in self._sent:
            return Ending.STOPPED, {**facts, "message": "it was stopped"}
        if self._is_out_of_memory(number):
            return Ending.FAILED, {**facts, "message": _OUT_OF_MEMORY}
        if number in (signal.SIGABRT, signal.SIGSEGV) and self._log_says_so():
            return Ending.FAILED, {**facts, "message": OUT_OF_MEMORY}
        message = f"its process was killed by {_signal_name(number)}; see {log}"
        return Ending.DIED, {**facts, "message": message}

    def _log_says_so(self) -> bool:
        """Whether the last that libraries printed was that they got no memory (ulimit -v)."""
        with contextlib.suppress(OSError, RunError), open_regular(self._attempt.log_file) as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST_BYTES))
            return says_out_of_memory(log.read().decode(errors="replace"))
        return False

    def _is_out_of_memory(self, number: Any) -> bool:
        return number == signal.SIGKILL and self._kills.happened()


def _listen() -> int:
    """Take the signals; returns a descriptor from which their numbers can be read."""
    receiving, sending = os.pipe()
    os.set_blocking(sending, False)
    signal.set_wakeup_fd(sending, warn_on_full_buffer=False)
    for number in (*_PASSED_ON, signal.SIGCHLD):
        signal.signal(number, lambda number, frame: None)
    return receiving


def _environment(attempt: AttemptFolder, pipe: int) -> dict[str, str]:
    """Ours, then what the user's job depends on, then what is decided here."""
    request = read_record(attempt.job_path / "request.json") or {}
    environment = environment_for_a_run(os.environ, request.get("environment", {}))
    environment = child_environment(environment)
    devices = [d for d in attempt.about().get("devices", []) if d.startswith(GPU_PREFIXES)]
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    elif attempt.about().get("gpu") is False:
        # Prepared without one, it goes on without one.
        environment["CUDA_VISIBLE_DEVICES"] = ""
    environment[PARENT_PIPE] = str(pipe)
    return environment


def _last_object(printed: bytes) -> dict[str, Any] | None:
    """The object in the last line that the rank printed, if it is one."""
    try:
        found = json.loads(printed.splitlines()[-1])
    except (ValueError, IndexError):
        return None
    return found if isinstance(found, dict) else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
