"""What the routes need beside the engine: whom they serve it for, and when to stop."""

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from engine.daemon.engine import Engine
from engine.daemon.telemetry import Shared
from engine.runs.api_schema import EngineView


class Serving:
    """An engine that is being served."""

    def __init__(self, engine: Engine, socket: Callable[[], str], stop: Callable[[], None]) -> None:
        """Serve ``engine`` at the path that ``socket`` tells, until ``stop`` is called."""
        self.engine = engine
        self.stop = stop
        self.ending = asyncio.Event()
        """Set once the server is to end: streams end then by themselves."""
        self.fresh_view: Callable[[], EngineView] = lambda: engine.view(socket())
        self.shared_view = Shared(self.fresh_view)

    async def pause(self, seconds: float) -> None:
        """Sleep, or less if the server is to end."""
        try:
            async with asyncio.timeout(seconds):
                await self.ending.wait()
        except TimeoutError:
            return


async def _serving(request: Request) -> Serving:
    serving: Serving = request.app.state.serving
    return serving


async def _engine(request: Request) -> Engine:
    return (await _serving(request)).engine


TheServing = Annotated[Serving, Depends(_serving)]
TheEngine = Annotated[Engine, Depends(_engine)]
