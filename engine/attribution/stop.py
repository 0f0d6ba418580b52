"""Asking a worker to stop: at the next step boundary, after saving; or at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from engine.runs.errors import StoppedError


class Stop:
    """Whether a stop was asked for; the handler of SIGTERM.

    Where there are steps it waits for the end of one, so that what they computed is saved.
    Everywhere else it takes effect at once: nothing is lost that is not quickly done again.
    """

    def __init__(self) -> None:
        self.asked = False
        self._at_steps = False

    def __call__(self) -> bool:
        """Whether to stop: asked between steps."""
        return self.asked

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Take SIGTERM."""
        self.asked = True
        if not self._at_steps:
            raise StoppedError("stopped")

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """While inside, a stop waits to be asked for."""
        if self.asked:
            raise StoppedError("stopped")
        self._at_steps = True
        try:
            yield
        finally:
            self._at_steps = False
        if self.asked:
            raise StoppedError("stopped")


def handle_signals(stop: Stop) -> None:
    """SIGTERM asks to save and stop, SIGINT to stop at once."""
    signal.signal(signal.SIGTERM, stop.ask)
    signal.signal(signal.SIGINT, signal.default_int_handler)
