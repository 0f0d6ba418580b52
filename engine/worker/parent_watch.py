"""A worker must not outlive whoever started it: nobody would record how it ends, or want it.

That is a supervisor, the process that stands for several ranks, or a verb of the command line.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading

from engine.runs.environment import PARENT_PIPE

_PR_SET_PDEATHSIG = 1


def die_with_supervisor() -> None:
    """Arrange to be killed when the process that started this one ends.

    That holds the other end of a pipe, which closes with it; on Linux the kernel is asked as well,
    because a thread cannot run while a native library holds the interpreter's lock.
    """
    number = os.environ.pop(PARENT_PIPE, None)
    if number is None:
        return
    descriptor = int(number)
    _keep_descriptors()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch, args=(descriptor,), name="supervisor", daemon=True).start()


def _keep_descriptors() -> None:
    """Let no process that a library starts hold the locks of this one after its end."""
    for name in os.listdir("/dev/fd"):
        if int(name) > 2:
            # The one that lists this folder is closed already.
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), False)


def _watch(descriptor: int) -> None:
    # Nothing is ever written: reading returns when the last holder of the other end is gone.
    os.read(descriptor, 1)
    os.kill(os.getpid(), signal.SIGKILL)
