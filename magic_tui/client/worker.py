"""Starting a worker process, following its journal and taking its answer.

The worker runs in its own process group, so that ctrl+c reaches it once and through here: it is
asked to stop with SIGINT, given time to finish what it is writing, and killed only then.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol

from engine.contract import errors
from engine.contract.errors import ExitCode, MagicError, RunError
from magic_tui.client.follow import Follower, Record

# -P: a file in the user's folder named like a library must not be imported in its place.
WORKER_COMMAND = [sys.executable, "-P", "-m", "engine.worker"]
POLL_SECONDS = 0.1
PATIENCE_SECONDS = 30.0
_LAST_LINES = 8


class WorkerError(MagicError):
    """The worker refused or failed; carries its exit code and the end of what it printed."""

    def __init__(self, message: str, exit_code: int, last_lines: Sequence[str] = ()) -> None:
        """Keep the worker's own sentence."""
        super().__init__(message)
        with contextlib.suppress(ValueError):
            self.exit_code = ExitCode(exit_code)
        self.last_lines = tuple(last_lines)


class WorkInterruptedError(MagicError):
    """The user stopped the worker."""

    exit_code = ExitCode.INTERRUPTED


class Watcher(Protocol):
    """Whoever shows what a worker does."""

    def event(self, event: Record) -> None:
        """Take one event of the journal."""

    def stopping(self) -> None:
        """The worker was asked to stop."""


def run_worker(
    arguments: Sequence[str],
    journal: Follower | None = None,
    watcher: Watcher | None = None,
    logs: Path | None = None,
) -> Record:
    """Run a worker to its end and return the facts it answers with.

    Args:
        arguments: verb and options of ``engine.worker``.
        journal: where its events appear; closed in the end.
        watcher: who is told of them.
        logs: the folder that keeps what the worker printed, if its parent exists in the end.

    Raises:
        WorkerError: if the worker refused, failed or crashed.
        WorkInterruptedError: on ctrl+c, once the worker has ended.
    """
    worker = _Worker(arguments)
    try:
        with _signals_as_interrupt():
            try:
                for event in worker.follow(journal):
                    if watcher is not None:
                        watcher.event(event)
            except KeyboardInterrupt:
                worker.stop(watcher)
                raise WorkInterruptedError("interrupted") from None
    finally:
        worker.close(logs)
        if journal is not None:
            journal.close()
    return worker.answer()


class _Worker:
    def __init__(self, arguments: Sequence[str]) -> None:
        descriptor, log = tempfile.mkstemp(prefix="magic-worker-", suffix=".log")
        self.log = Path(log)
        self._answer: Record | None = None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        with open(descriptor, "wb") as errors:
            self._process = subprocess.Popen(
                [*WORKER_COMMAND, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=errors,
                process_group=0,
                env=_environment(),
            )

    def follow(self, journal: Follower | None) -> Iterator[Record]:
        """Events until the worker has ended."""
        ended = False
        while not ended:
            ended = self._process.poll() is not None
            if journal is not None:
                try:
                    yield from journal.poll()
                except RunError:
                    journal = None  # the work goes on without an audience
            if not ended:
                time.sleep(POLL_SECONDS)

    def stop(self, watcher: Watcher | None) -> None:
        """Ask the worker to end; after 30 s, or a second ctrl+c, end it."""
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT)
        if watcher is not None:
            watcher.stopping()
        with contextlib.suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
            self._process.wait(PATIENCE_SECONDS)

    def close(self, logs: Path | None) -> None:
        """End the worker if it is still there, and keep what it printed."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        with self._output:
            self._output.seek(0)
            self._answer = _last_object(self._output.read(), self._process.returncode)
        printed = self.log.stat().st_size > 0
        if printed and logs is not None and logs.parent.is_dir():
            logs.mkdir(exist_ok=True)
            name = time.strftime("worker-%Y%m%dT%H%M%S", time.gmtime())
            self.log = Path(shutil.move(self.log, logs / f"{name}-{self._process.pid}.log"))
        elif self._answer is not None:
            self.log.unlink()

    def answer(self) -> Record:
        """The facts of its last line.

        Raises:
            WorkerError: if that line reports a failure, or is no answer at all.
        """
        status = self._process.returncode
        if self._answer is not None and self._answer["ok"]:
            return self._answer
        if self._answer is not None:
            raise WorkerError(str(self._answer.get("message", "the worker failed")), status)
        raise WorkerError(
            f"the worker ended unexpectedly ({_ending(status)}); see {self.log}",
            int(ExitCode.RUN_FAILED),
            _last_lines(self.log),
        )


def _last_object(output: bytes, status: int) -> Record | None:
    """The answer in the last line; None if there is none or the exit status belies it."""
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


def _last_lines(log: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return log.read_text(errors="replace").strip().splitlines()[-_LAST_LINES:]
    return []


def _environment() -> dict[str, str]:
    """The same environment; where magic is not installed its folder is found by path."""
    root = str(Path(errors.__file__).resolve().parents[2])
    environment = dict(os.environ)
    installed = {str(Path(sysconfig.get_path(name)).resolve()) for name in ("purelib", "platlib")}
    if root not in installed:
        known = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{known}" if known else root
    return environment


@contextlib.contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP stop the worker the way ctrl+c does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
