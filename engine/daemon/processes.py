"""Processes of ours: when they started, and signals that never hit a stranger.

A supervisor starts with this module, so it imports little.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path


def process_start(pid: int) -> float | None:
    """When a process started, in whatever unit its system counts; None if it is not there."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The second field, the program's name, may hold spaces and brackets.
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1]
            return float(fields.split()[19])
        return None
    import psutil

    with contextlib.suppress(psutil.Error):
        return float(psutil.Process(pid).create_time())
    return None


def send_signal(pid: int, started: float, number: int) -> bool:
    """Send a signal to the process ``pid`` if it is still the one that started then."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except (OSError, AttributeError):
        return _send_by_id(pid, started, number)
    try:
        # The descriptor stays with its process even if the id is given to another one now.
        if process_start(pid) != started:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def _send_by_id(pid: int, started: float, number: int) -> bool:
    """The same where the system has no process descriptors."""
    if process_start(pid) != started:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False
