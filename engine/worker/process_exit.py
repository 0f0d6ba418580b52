"""How a process that computes ends: when its work is done, not when its libraries let it."""

import atexit
import contextlib
import os
import sys


class ProcessExit:
    """Ends this process with a code, once the functions that libraries registered have run.

    Python's own way out destroys tensors while threads of torch are still there, which take the
    interpreter's lock to do the same: now and then a process hangs or aborts in it after its work
    was done (pytorch issue 190489), and the ranks beside it wait for it.
    """

    def __init__(self) -> None:
        """Make it before libraries are loaded: what was registered first runs last."""
        self.code: int | None = None
        atexit.register(self._leave)

    def _leave(self) -> None:
        if self.code is None:
            return
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(self.code)
