"""Running a worker for a command: planning, exporting, checking queries.

The worker runs in its own process group, so ctrl+c reaches only this process. It sends SIGINT to
the worker, waits until it finishes writing, and kills it after 30 s. The worker ends when this
process ends, even by SIGKILL.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.runs.environment import PARENT_PIPE, child_environment
from engine.runs.errors import OUT_OF_MEMORY, ExitCode, MagicError, says_out_of_memory
from engine.runs.temporary import scratch_folder
from magic_tui.client.engine_process import PYTHON, last_lines
from magic_tui.client.signals import signals_as_interrupt

WORKER_COMMAND = [*PYTHON, "engine.worker"]
PATIENCE_SECONDS = 30.0
_LAST_LINES = 8
_POLL_SECONDS = 0.1

Facts = dict[str, Any]


class WorkerError(MagicError):
    """The worker failed; carries its exit code and the last lines of its log."""

    def __init__(self, message: str, exit_code: int, last_lines: Sequence[str] = ()) -> None:
        """``message`` is the sentence that the worker printed."""
        super().__init__(message)
        with contextlib.suppress(ValueError):
            self.exit_code = ExitCode(exit_code)
        self.last_lines = tuple(last_lines)


class WorkInterruptedError(MagicError):
    """The user stopped the worker."""

    exit_code = ExitCode.INTERRUPTED


def run_worker(arguments: Sequence[str], is_unwanted: Callable[[], bool] | None = None) -> Facts:
    """Run a worker and return the facts that it prints.

    Args:
        arguments: its verb and options.
        is_unwanted: polled every 0.1 s; the worker is stopped once it returns True.

    Raises:
        WorkerError: if the worker failed or crashed.
        WorkInterruptedError: on ctrl+c or if unwanted, after the worker has ended.
    """
    worker = _Worker(arguments)
    try:
        with signals_as_interrupt():
            try:
                worker.wait(is_unwanted)
            except KeyboardInterrupt:
                worker.stop()
                raise WorkInterruptedError("interrupted") from None
    finally:
        worker.close()
    return worker.answer()


class _Worker:
    def __init__(self, arguments: Sequence[str]) -> None:
        self._scratch = contextlib.ExitStack()
        self.log = self._scratch.enter_context(scratch_folder("worker")) / "worker.log"
        self._answer: Facts | None = None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        # When this process ends, its end of the pipe closes and the worker ends.
        pipe, self._alive = os.pipe()
        environment = {**child_environment(os.environ), PARENT_PIPE: str(pipe)}
        with open(self.log, "wb") as errors:
            self._process = subprocess.Popen(
                [*WORKER_COMMAND, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=errors,
                process_group=0,
                env=environment,
                pass_fds=[pipe],
            )
        os.close(pipe)

    def wait(self, is_unwanted: Callable[[], bool] | None) -> None:
        """Wait until the worker ends, or is unwanted."""
        if is_unwanted is None:
            self._process.wait()
            return
        while self._process.poll() is None:
            if is_unwanted():
                raise KeyboardInterrupt
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Send SIGINT and wait for the worker to end, at most 30 s or until a second ctrl+c."""
        self._process.send_signal(signal.SIGINT)
        with contextlib.suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
            self._process.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        """Kill the worker if it still runs; keep its log if it printed no outcome."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._alive)
        with self._output:
            self._output.seek(0)
            self._answer = _last_object(self._output.read(), self._process.returncode)
        if self._answer is None:
            descriptor, copy = tempfile.mkstemp(prefix="magic-worker-", suffix=".log")
            os.close(descriptor)
            self.log = Path(shutil.copyfile(self.log, copy))
        self._scratch.close()

    def answer(self) -> Facts:
        """The facts of the worker's last line.

        Raises:
            WorkerError: if the line reports a failure or is no outcome.
        """
        status = self._process.returncode
        if self._answer is not None and self._answer["ok"]:
            return self._answer
        if self._answer is not None:
            raise WorkerError(str(self._answer.get("message", "the worker failed")), status)
        lines = last_lines(self.log, _LAST_LINES)
        if says_out_of_memory("\n".join(lines)):
            raise WorkerError(OUT_OF_MEMORY, int(ExitCode.RUN_FAILED), lines)
        raise WorkerError(
            f"the worker ended unexpectedly ({_ending(status)}); see {self.log}",
            int(ExitCode.RUN_FAILED),
            lines,
        )


def _last_object(output: bytes, status: int) -> Facts | None:
    """The outcome in the last line; None if there is none or the exit status contradicts it."""
    lines = output.decode(errors="replace").strip().splitlines()
    with contextlib.suppress(ValueError, IndexError):
        answer = json.loads(lines[-1])
        if isinstance(answer, dict) and answer.get("ok") is (status == 0) and status >= 0:
            return answer
    return None


def _ending(status: int) -> str:
    if status >= 0:
        return f"exit {status}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-status).name
        return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
    return f"signal {-status}"
