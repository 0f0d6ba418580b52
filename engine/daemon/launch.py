"""Starting a supervisor, and asking one that runs to stop."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence

from engine.daemon.job_monitor import JobMonitor
from engine.daemon.leases import Allocation
from engine.daemon.processes import send_signal
from engine.runs.attempts import AttemptFolder
from engine.runs.environment import child_environment
from engine.runs.errors import MagicError
from engine.runs.jobs import JobFolder


def launch(
    command: Sequence[str], job: JobFolder, allotted: Allocation
) -> tuple[AttemptFolder, subprocess.Popen[bytes]]:
    """Begin the next attempt at a job; its supervisor holds the lock and the leases from now on.

    Raises:
        OSError: if there is no room on the disk, or for another process; no attempt was made.
    """
    descriptors = list(allotted.descriptors)
    try:
        attempt, lock = job.new_attempt()
        descriptors.append(lock)
        try:
            attempt.write_about(devices=allotted.devices, gpu=allotted.gpu)
            return attempt, _spawn([*command, str(attempt.path)], attempt, descriptors)
        except BaseException:
            shutil.rmtree(attempt.path, ignore_errors=True)
            raise
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _spawn(
    command: list[str], attempt: AttemptFolder, descriptors: list[int]
) -> subprocess.Popen[bytes]:
    with open(attempt.supervisor_log, "ab") as log:
        return subprocess.Popen(
            [*command, *map(str, descriptors)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=child_environment(os.environ),
            pass_fds=descriptors,
            # Neither our end nor a logout may reach it.
            start_new_session=True,
        )


def ask_to_stop(job: JobMonitor, number: signal.Signals) -> bool:
    """Send a signal to the supervisor of a job at work; whether there was one to send it to."""
    attempt = job.latest
    with contextlib.suppress(MagicError, OSError, KeyError, TypeError, ValueError):
        if attempt is not None and attempt.is_held():
            about = attempt.about()
            return send_signal(int(about["pid"]), float(about["started"]), number)
    return False
