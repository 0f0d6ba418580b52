"""What every route needs: the engine, the signal to end, and a cached view of the engine."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from engine.daemon.engine import Engine
from engine.runs.api_schema import EngineView


class Serving:
    """An engine that is being served."""

    def __init__(self, engine: Engine, socket: Callable[[], str], stop: Callable[[], None]) -> None:
        """Serve ``engine`` at the path that ``socket`` returns, until ``stop`` is called."""
        self.engine = engine
        self.stop = stop
        self.ending = asyncio.Event()
        """Set when the server is to end; streams end then."""
        self.fresh_view: Callable[[], EngineView] = lambda: engine.view(socket())
        self.shared_view = CachedView(self.fresh_view)

    async def pause(self, seconds: float) -> None:
        """Sleep until the time has passed or the server is to end."""
        try:
            async with asyncio.timeout(seconds):
                await self.ending.wait()
        except TimeoutError:
            return


class CachedView:
    """A view of the engine that is computed at most once a second, for any number of streams."""

    def __init__(self, compute: Callable[[], EngineView], seconds: float = 1.0) -> None:
        """Cache each result of ``compute`` for ``seconds``."""
        self._compute, self._seconds = compute, seconds
        self._lock = threading.Lock()
        self._cached: tuple[float, EngineView] | None = None

    def __call__(self) -> EngineView:
        """The view."""
        with self._lock:
            now = time.monotonic()
            if self._cached is None or now - self._cached[0] >= self._seconds:
                self._cached = (now, self._compute())
            return self._cached[1]


async def _serving(request: Request) -> Serving:
    serving: Serving = request.app.state.serving
    return serving


async def _engine(request: Request) -> Engine:
    return (await _serving(request)).engine


TheServing = Annotated[Serving, Depends(_serving)]
TheEngine = Annotated[Engine, Depends(_engine)]
