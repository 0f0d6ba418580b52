"""The process that computes: signals that stop it, and its garbage collection. Loads no torch."""

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from engine.runs.errors import StoppedError

_USUAL = gc.get_threshold()
_SELDOM = (100_000, 20, 100)


class Stop:
    """Whether this process should stop; the handler of SIGTERM.

    Inside :meth:`between_steps` the signal only sets a flag, which the loop checks after each step,
    so that its state can be saved. Anywhere else the signal raises at once: little work is lost.
    """

    def __init__(self) -> None:
        self.requested = False
        self._in_steps = False

    def __call__(self) -> bool:
        """Whether a stop was requested; called between steps."""
        return self.requested

    def request(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM."""
        self.requested = True
        if not self._in_steps:
            raise StoppedError("stopped")

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Inside, SIGTERM takes effect only between steps.

        Raises:
            StoppedError: at either end, if a stop was requested.
        """
        if self.requested:
            raise StoppedError("stopped")
        self._in_steps = True
        try:
            yield
        finally:
            self._in_steps = False
        if self.requested:
            raise StoppedError("stopped")


def handle_signals(stop: Stop) -> None:
    """SIGTERM stops after saving; SIGINT raises KeyboardInterrupt at once."""
    signal.signal(signal.SIGTERM, stop.request)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def collect_seldom() -> None:
    """Collect garbage rarely while libraries and the model load.

    Loading creates 400,000 objects that stay; default collection takes 1/6 of the loading time.
    """
    gc.set_threshold(*_SELDOM)


def freeze_loaded_objects() -> None:
    """Exclude all present objects from collection, and restore the default thresholds.

    A full collection would take 0.4 s with them. The objects of steps may hold much memory, so
    they are collected as usual.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_USUAL)
