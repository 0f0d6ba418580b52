"""The worker's process: it ends with its parent, and it ends as soon as its work is done."""

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import threading

from engine.runs.environment import PARENT_PIPE

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Arrange that this process is killed when its parent ends.

    The parent is a supervisor, the process that starts several ranks, or a command. It holds the
    write end of the pipe named by ``MAGIC_SUPERVISOR_PIPE``; without that variable nothing is done.
    On Linux the kernel also sends SIGKILL, because the thread that reads the pipe cannot run while
    a native library holds the interpreter's lock.
    """
    number = os.environ.pop(PARENT_PIPE, None)
    if number is None:
        return
    descriptor = int(number)
    _close_descriptors_on_exec()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch, args=(descriptor,), name="parent", daemon=True).start()


def _close_descriptors_on_exec() -> None:
    """Keep locks from being inherited by processes that libraries start."""
    for name in os.listdir("/dev/fd"):
        if int(name) > 2:
            # The descriptor of this listing is closed already.
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), False)


def _watch(descriptor: int) -> None:
    # Nothing is written to the pipe: read() returns when the last write end is closed.
    os.read(descriptor, 1)
    os.kill(os.getpid(), signal.SIGKILL)


class ProcessExit:
    """Exits with ``code`` after the atexit functions of libraries, skipping Python's teardown.

    Python destroys tensors while torch's threads still run and take the interpreter's lock, so a
    finished process sometimes hangs or aborts (pytorch issue 190489), and other ranks wait for it.
    """

    def __init__(self) -> None:
        """Register the exit. Create it before libraries load: atexit runs in reverse order."""
        self.code: int | None = None
        atexit.register(self._exit)

    def _exit(self) -> None:
        if self.code is None:
            return
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(self.code)
