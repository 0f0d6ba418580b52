"""Driving the dashboard from tests: run it without a terminal, wait, read what is on screen."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from textual.pilot import Pilot

from magic_tui.dashboard.app import MagicApp

PATIENCE_SECONDS = 30.0
LONGEST_SECONDS = 300.0


@dataclass(frozen=True)
class Terminal:
    """A terminal's size, and whether it may show colours."""

    width: int = 80
    height: int = 24
    colour: bool = True

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    def __str__(self) -> str:
        return f"{self.width}x{self.height}" + ("" if self.colour else "-no-colour")


TERMINALS = (Terminal(), Terminal(200, 55), Terminal(colour=False))


def drive(
    app: MagicApp,
    task: Callable[[Pilot[None]], Awaitable[Any]],
    terminal: Terminal | None = None,
) -> None:
    """Run the dashboard and do ``task`` in it."""

    async def run() -> None:
        async with app.run_test(size=(terminal or Terminal()).size, notifications=True) as pilot:
            await pilot.pause()
            await task(pilot)

    # A task that hangs fails after a timeout.
    asyncio.run(asyncio.wait_for(run(), LONGEST_SECONDS))


async def until(
    pilot: Pilot[None],
    condition: Callable[[], Any],
    what: str = "",
    patience: float = PATIENCE_SECONDS,
) -> None:
    """Wait until a condition holds; fails with the screen's text if it never does."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"never came: {what}\n{screen_text(pilot.app)}")
        await pilot.pause(0.02)


async def shows(pilot: Pilot[None], text: str) -> None:
    """Wait until a text is on screen."""
    await until(pilot, lambda: text in screen_text(pilot.app), text)


def screen_lines(app: Any) -> list[str]:
    """The text on screen, one string per line."""
    screen = app.screen
    strips = screen._compositor.render_strips()
    return ["".join(segment.text for segment in strip) for strip in strips]


def screen_text(app: Any) -> str:
    """The same in one string."""
    return "\n".join(screen_lines(app))
