"""Start supervisors, and signal processes without ever hitting another one.

A supervisor loads this module at start, so it imports little.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.runs.attempts import AttemptFolder
from engine.runs.environment import child_environment
from engine.runs.errors import MagicError

if TYPE_CHECKING:
    from engine.daemon.leases import Allocation
    from engine.runs.jobs import JobFolder


def launch(
    command: Sequence[str], job: "JobFolder", allocation: "Allocation"
) -> tuple[AttemptFolder, "subprocess.Popen[bytes]"]:
    """Start the next attempt at a job; its supervisor inherits the lock and the leases.

    Raises:
        OSError: if the disk is full or no process can be started; no attempt remains.
    """
    descriptors = list(allocation.descriptors)
    try:
        attempt, lock = job.new_attempt()
        descriptors.append(lock)
        try:
            attempt.write_about(devices=allocation.devices, gpu=allocation.gpu)
            return attempt, _spawn([*command, str(attempt.path)], attempt, descriptors)
        except BaseException:
            shutil.rmtree(attempt.path, ignore_errors=True)
            raise
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def signal_supervisor(attempt: AttemptFolder | None, number: signal.Signals) -> bool:
    """Send a signal to the supervisor of a running attempt; False if there is none."""
    with contextlib.suppress(MagicError, OSError, KeyError, TypeError, ValueError):
        if attempt is not None and attempt.is_held():
            about = attempt.about()
            return send_signal(int(about["pid"]), float(about["started"]), number)
    return False


def process_start(pid: int) -> float | None:
    """The start time of a process, in the unit of its system; None if it does not exist."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The second field, the program's name, may contain spaces and brackets.
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1]
            return float(fields.split()[19])
        return None
    import psutil

    with contextlib.suppress(psutil.Error):
        return float(psutil.Process(pid).create_time())
    return None


def send_signal(pid: int, started: float, number: int) -> bool:
    """Send a signal to process ``pid`` if it is the one that started at ``started``."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except (OSError, AttributeError):
        return _send_by_id(pid, started, number)
    try:
        # The descriptor names this process even if its id is reused now.
        if process_start(pid) != started:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def _send_by_id(pid: int, started: float, number: int) -> bool:
    """:func:`send_signal` on systems without process descriptors."""
    if process_start(pid) != started:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def _spawn(
    command: list[str], attempt: AttemptFolder, descriptors: list[int]
) -> "subprocess.Popen[bytes]":
    with open(attempt.supervisor_log, "ab") as log:
        return subprocess.Popen(
            [*command, *map(str, descriptors)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=child_environment(os.environ),
            pass_fds=descriptors,
            # It survives the engine and a logout.
            start_new_session=True,
        )
